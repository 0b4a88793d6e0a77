// Not a test: nonblocking MPI-IO, for real_programs.sh. Each rank writes its blocks of one file with MPI_File_iwrite_at, all in
// flight at once, then reads and compares those of its neighbour.
//
// mpi_io FILE
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>

enum { BLOCKS = 64, BLOCK = 65536 };

// What byte `at` of a block holds: different in every block of every rank.
static unsigned char expected(int rank, int block, int at)
{
    return (unsigned char)(rank * 101 + block * 13 + at + at / 251);
}

int main(int argc, char **argv)
{
    MPI_Init(&argc, &argv);
    if (argc != 2) {
        fprintf(stderr, "usage: mpi_io FILE\n");
        MPI_Abort(MPI_COMM_WORLD, 2);
    }
    // A failed call ends the program: MPI's default for files is to go on.
    MPI_File_set_errhandler(MPI_FILE_NULL, MPI_ERRORS_ARE_FATAL);
    int rank, ranks;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    unsigned char *data = malloc((size_t)BLOCKS * BLOCK);
    if (data == NULL)
        MPI_Abort(MPI_COMM_WORLD, 2);
    MPI_Request requests[BLOCKS];
    MPI_Status statuses[BLOCKS];
    MPI_File file;

    MPI_File_open(MPI_COMM_WORLD, argv[1], MPI_MODE_CREATE | MPI_MODE_RDWR, MPI_INFO_NULL, &file);
    for (int block = 0; block < BLOCKS; block++) {
        unsigned char *at = data + (size_t)block * BLOCK;
        for (int i = 0; i < BLOCK; i++)
            at[i] = expected(rank, block, i);
        MPI_Offset offset = ((MPI_Offset)block * ranks + rank) * BLOCK;
        MPI_File_iwrite_at(file, offset, at, BLOCK, MPI_BYTE, &requests[block]);
    }
    MPI_Waitall(BLOCKS, requests, statuses);
    MPI_File_sync(file);
    MPI_Barrier(MPI_COMM_WORLD);
    MPI_File_sync(file);

    int neighbour = (rank + 1) % ranks;
    for (int block = 0; block < BLOCKS; block++) {
        unsigned char *at = data + (size_t)block * BLOCK;
        for (int i = 0; i < BLOCK; i++)
            at[i] = 0;
        MPI_Offset offset = ((MPI_Offset)block * ranks + neighbour) * BLOCK;
        MPI_File_iread_at(file, offset, at, BLOCK, MPI_BYTE, &requests[block]);
    }
    MPI_Waitall(BLOCKS, requests, statuses);
    int wrong = 0;
    for (int block = 0; block < BLOCKS; block++)
        for (int i = 0; i < BLOCK; i++)
            wrong += data[(size_t)block * BLOCK + i] != expected(neighbour, block, i);
    MPI_File_close(&file);

    int all = 0;
    MPI_Allreduce(&wrong, &all, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
    if (rank == 0)
        printf("%d ranks, %d blocks each, %d wrong bytes\n", ranks, BLOCKS, all);
    free(data);
    MPI_Finalize();
    return all != 0;
}
