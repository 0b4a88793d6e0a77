// Not a test: the AIOHandle of ECMWF's library eckit, for real_programs.sh. Writes blocks of different sizes through it, up to 64 of
// them in flight, with an aio_fsync at the end, then reads the file by plain means and compares.
//
// eckit_write FILE
#include <eckit/io/AIOHandle.h>
#include <eckit/runtime/Main.h>

#include <cstdio>
#include <fstream>
#include <iterator>
#include <string>

int main(int argc, char **argv)
{
    if (argc != 2) {
        std::fprintf(stderr, "usage: eckit_write FILE\n");
        return 2;
    }
    eckit::Main::initialise(argc, argv);
    const bool sync = true;
    eckit::AIOHandle handle(argv[1], 64, 65536, sync);
    handle.openForWrite(0);
    std::string written;
    unsigned state = 1;
    for (int number = 0; number < 1000; number++) {
        std::string block(10000 + number, ' ');
        for (char &byte : block) {
            state = state * 69069 + 1;
            byte = static_cast<char>(state >> 24);
        }
        if (handle.write(block.data(), static_cast<long>(block.size())) != static_cast<long>(block.size()))
            return 1;
        written += block;
    }
    handle.flush();
    handle.close();
    std::ifstream file(argv[1], std::ios::binary);
    const std::string got{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
    std::printf("%zu bytes written, %s\n", written.size(), got == written ? "the same" : "but others are there");
    return got != written;
}
