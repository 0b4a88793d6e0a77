#!/usr/bin/env bash
# Runs real programs that call <aio.h> on the preloaded library, and compares what they did.
#
#   c-tests/tools/real_programs.sh [--library FILE] [--directory DIR] [--require NAME]... [NAME]...
#
# NAME is one of those that --list prints; without any, all run. A program that is not installed is skipped with the
# reason, unless --require names it. FILE is the libaio_posix.so to preload (default: target/release/libaio_posix.so). The files are
# made in DIR (default: the current directory), in a new directory that is removed at the end; but for DIR/python-packages, where
# packages from PyPI stay for the next time. 500 MB are enough.
#
# A run counts only when it is proven that the library served it:
# - the dynamic linker (LD_DEBUG=bindings) bound calls of aio_* or lio_* to the library, and none of any object to
#   libc; that also rules out the library's own fallback, which looks libc's functions up in the same way;
# - strace saw an io_setup(2) of the program succeed: the library got its kernel context. With --seccomp-bpf only that call
#   stops the program, all others run at full speed.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
library=$here/../../target/release/libaio_posix.so
parent=.
required=" "
programs=()
all=(fio-direct fio-buffered fio-fsync fio-cold stress-ng xrdcp perf-record mpich open-mpi pyaio eckit)
while [ $# -gt 0 ]; do
    case $1 in
        --library) library=$2; shift 2 ;;
        --directory) parent=$2; shift 2 ;;
        --require) required+="$2 "; shift 2 ;;
        --list) printf '%s\n' "${all[@]}"; exit ;;
        -*) echo "$0: no option $1; its first lines say what there is" >&2; exit 2 ;;
        *) programs+=("$1"); shift ;;
    esac
done
[ ${#programs[@]} -gt 0 ] || programs=("${all[@]}")
library=$(realpath -e "$library")
packages=$(realpath -e "$parent")/python-packages
scratch=$(mktemp -d -- "$(realpath -e "$parent")/real-programs.XXXXXX")
trap 'rm -rf -- "$scratch"' EXIT

# Says why a program failed, and ends it (each runs in a subshell).
fail() {
    echo "    $*"
    [ ! -s "$scratch/output" ] || tail -n 20 "$scratch/output" | sed 's/^/    | /'
    exit 1
}

# Ends a program's run as skipped unless COMMAND is there.
need() {
    command -v "$1" >/dev/null || { echo "    skipped: no $1 (Debian: apt-get install $2)"; exit 77; }
}

# preloaded SECONDS COMMAND...: runs COMMAND on the library, at most so long, and proves that it used it. What it prints goes to
# $scratch/output.
preloaded() {
    local seconds=$1 status=0
    shift
    rm -f "$scratch"/bindings.* "$scratch/trace"
    echo "    \$ LD_PRELOAD=libaio_posix.so $*" | sed "s|$scratch|.|g"
    LD_DEBUG=bindings LD_DEBUG_OUTPUT=$scratch/bindings strace -f --seccomp-bpf -qq -e trace=io_setup -e signal=none -o "$scratch/trace" \
        env LD_PRELOAD="$library" timeout --kill-after=5 "$seconds" "$@" >"$scratch/output" 2>&1 || status=$?
    [ "$status" -ne 124 ] || fail "still running after $seconds seconds"
    [ "$status" -eq 0 ] || fail "exit status $status"
    prove
}

prove() {
    local calls contexts
    # "binding file fio [0] to /…/libaio_posix.so [0]: normal symbol `aio_read64' [GLIBC_2.34]"; the library's own are no proof.
    cat "$scratch"/bindings.* | grep -E "symbol .(aio|lio)_" | grep -vF "file $library [0] to $library" >"$scratch/bound" || true
    if grep -vF "to $library " "$scratch/bound"; then
        fail "these calls went to another library"
    fi
    calls=$(sed -E "s/.*symbol .([a-z0-9_]+).*/\1/" "$scratch/bound" | sort -u | tr '\n' ' ')
    [ -n "$calls" ] || fail "it never called the library"
    contexts=$(grep -cE 'io_setup.* = 0$' "$scratch/trace") || fail "the kernel was asked for no context"
    echo "    bound to the library: $calls"
    echo "    contexts set up: $contexts"
}

# fio_verified WRITES OPTION...: four threads of fio, 64 requests deep each, write blocks with a checksum in each and read them again.
fio_verified() {
    local blocks=$1 issued
    shift
    need fio fio
    preloaded 240 fio --name=verified --ioengine=posixaio --thread --numjobs=4 --iodepth=64 --bs=4k --size=16m \
        --rw=randwrite --verify=crc32c --verify_fatal=1 --group_reporting "$@"
    # "issued rwts: total=16384,16384,0,0 short=0,0,0,0 …": fio's exit status alone would not tell that it read nothing.
    issued=$(grep -oE "issued rwts: total=[0-9]+,[0-9]+,[0-9]+" "$scratch/output") || fail "fio says nothing of what it did"
    [[ $issued == *"total=$blocks,$blocks,"* ]] || fail "not every block was written and verified: $issued"
    echo "    $blocks blocks written, read back and verified (crc32c)"
}

fio-direct() { fio_verified 16384 --direct=1; }

fio-buffered() { fio_verified 16384 --direct=0; }

# An aio_fsync after every eighth write, of all four files.
fio-fsync() { fio_verified 16384 --direct=0 --fsync=8; }

# Blocks that libc's pwrite wrote, read through the page cache after it was emptied of them.
fio-cold() {
    need fio fio
    local file=(--name=cold --thread --numjobs=4 --bs=4k --size=16m --verify=crc32c --verify_fatal=1 --group_reporting)
    fio "${file[@]}" --ioengine=psync --rw=write --direct=1 --do_verify=0 >"$scratch/output" 2>&1 || fail "fio could not write the files"
    preloaded 240 fio "${file[@]}" --ioengine=posixaio --iodepth=64 --rw=randread --direct=0 --invalidate=1
    grep -q "issued rwts: total=16384,0,0" "$scratch/output" || fail "not every block was read"
    echo "    16384 blocks read and verified (crc32c)"
}

stress-ng() {
    need stress-ng stress-ng
    preloaded 60 stress-ng --aio 4 --aio-requests 64 --verify --timeout 5s --metrics --temp-path .
    # "stress-ng: metrc: [7] aio 60118 4.95 …": the requests that were completed, told by signals, and verified.
    local completed
    completed=$(awk '$2 == "metrc:" && $4 == "aio" && $5 ~ /^[0-9]+$/ { print $5; exit }' "$scratch/output")
    [ "${completed:-0}" -gt 0 ] || fail "no request was completed"
    grep -q "successful run completed" "$scratch/output" || fail "no success"
    echo "    $completed requests completed by signal and verified"
}

xrdcp() {
    need xrdcp xrootd-client
    head -c 100000000 /dev/urandom >source
    export XRD_CPCHUNKSIZE=65536 XRD_CPPARALLELCHUNKS=64
    preloaded 120 xrdcp -f "file://localhost$scratch/source" "$scratch/copy"
    cmp source copy || fail "the copy differs"
    echo "    100000000 bytes copied in 64 chunks at a time, and the same"
}

# perf's own count of samples against what can be read back from its file, which it writes through aio_write.
perf-record() {
    need perf linux-perf
    perf version --build-options 2>/dev/null | grep -q "aio: \[ on" || { echo "    skipped: this perf was built without AIO"; exit 77; }
    perf record -q -e cpu-clock -o perf.data true >/dev/null 2>&1 || { echo "    skipped: perf may not sample here"; exit 77; }
    # shellcheck disable=SC2016 # for the inner shell
    preloaded 60 perf record --aio=4 -e cpu-clock -F 5000 -o perf.data -- sh -c 'i=0; while [ $i -lt 500000 ]; do i=$((i+1)); done'
    local taken read
    taken=$(grep -oE "\([0-9]+ samples\)" "$scratch/output" | grep -oE "[0-9]+") || fail "perf says nothing of samples"
    read=$(perf script -i perf.data -F time 2>/dev/null | grep -c .) || fail "its file holds no samples"
    [ "$taken" -eq "$read" ] || fail "$taken samples taken, $read in the file"
    echo "    $taken samples taken, all in the file"
}

# mpi COMPILER LAUNCHER...: two ranks that write and read with MPI_File_iwrite_at and MPI_File_iread_at, 64 blocks at a time.
mpi() {
    local compiler=$1
    shift
    "$compiler" -O1 -o mpi_io "$here/mpi_io.c" >"$scratch/output" 2>&1 || fail "mpi_io.c does not compile"
    preloaded 120 "$@" -n 2 ./mpi_io data
    grep -q "2 ranks, 64 blocks each, 0 wrong bytes" "$scratch/output" || fail "wrong data"
    echo "    $(grep ranks "$scratch/output"); each block compared"
}

mpich() {
    need mpicc.mpich "mpich libmpich-dev"
    mpi mpicc.mpich mpiexec.mpich
}

open-mpi() {
    need mpicc.openmpi "openmpi-bin libopenmpi-dev"
    # Open MPI wants to be asked twice before it runs as root.
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
    mpi mpicc.openmpi mpiexec.openmpi --oversubscribe
}

# Makes a Python with a package of PyPI, by a fixed version: $python, or ends the run as skipped.
python_with() {
    local package=$1 environment=$packages/$1
    need python3 "python3-venv"
    python=$environment/bin/python
    [ ! -e "$environment/complete" ] || return 0
    rm -rf -- "$environment"
    mkdir -p "$packages"
    if python3 -m venv "$environment" >"$scratch/output" 2>&1 &&
        timeout 180 "$environment/bin/pip" install --quiet --only-binary :all: --no-deps --disable-pip-version-check "$package" >>"$scratch/output" 2>&1; then
        touch "$environment/complete"
    else
        rm -rf -- "$environment"
        echo "    skipped: pip has no $package here: $(grep -v '^$' "$scratch/output" | tail -n 1)"
        exit 77
    fi
}

# Python's callbacks are told by SIGEV_THREAD, from a list of blocks that are asked for all at once.
pyaio() {
    python_with pyaio==0.5.0rc2
    preloaded 120 "$python" "$here/pyaio_blocks.py" data
    grep -q "^256 blocks written and read, 0 wrong" "$scratch/output" || fail "wrong data"
    echo "    256 blocks of 64 KiB written, read and compared"
}

# eckit's own AIOHandle, from the wheel that brings library and headers.
eckit() {
    local home
    need g++ g++
    python_with eckitlib==2.5.0.33
    home=$("$python" -c 'import eckitlib; print(list(eckitlib.__path__)[0])')
    # Its own libraries are beside it in the wheel, where it finds them and the linker does not.
    g++ -std=c++17 -O1 -I"$home/include" -o eckit_write "$here/eckit_write.cc" -L"$home/lib64" -leckit \
        -Wl,-rpath,"$home/lib64" -Wl,--allow-shlib-undefined >"$scratch/output" 2>&1 || fail "eckit_write.cc does not compile"
    preloaded 120 ./eckit_write data
    grep -q "bytes written, the same" "$scratch/output" || fail "wrong data"
    echo "    $(grep "bytes written" "$scratch/output")"
}

command -v strace >/dev/null || { echo "$0: strace is needed to prove that the library was used" >&2; exit 2; }
passed=0 failed=0 skipped=0
for name in "${programs[@]}"; do
    [[ " ${all[*]} " == *" $name "* ]] || { echo "$0: there is no program $name; --list shows those that there are" >&2; exit 2; }
    echo "$name"
    start=$SECONDS status=0
    rm -rf -- "${scratch:?}"/*
    # Not in a condition, where -e would not hold inside.
    set +e
    (set -e; cd "$scratch"; "$name")
    status=$?
    set -e
    if [ "$status" -eq 77 ] && [[ $required == *" $name "* ]]; then
        echo "    but it is required"
        status=1
    fi
    case $status in
        0) passed=$((passed + 1)); echo "    ok, $((SECONDS - start)) s" ;;
        77) skipped=$((skipped + 1)) ;;
        *) failed=$((failed + 1)); echo "    FAILED, $((SECONDS - start)) s" ;;
    esac
done
echo "programs: $passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
