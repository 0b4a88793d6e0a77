# What dist/install and dist/uninstall share: where things go, and which.
# Read by both with `.`; $command is the name of the one that reads it.

source=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' "$source/Cargo.toml" | head -n 1)
soname=libaio_posix.so.${version%%.*}

prefix=/usr/local
libdir=
includedir=

fail() {
    echo "dist/$command: $1" >&2
    exit 1
}

usage() {
    cat <<END
Usage: [DESTDIR=DIR] dist/$command [--prefix=DIR] [--libdir=DIR] [--includedir=DIR]

  --prefix=DIR      where the command and the man pages go    [/usr/local]
  --libdir=DIR      where the library and aio_posix.pc go     [PREFIX/lib]
  --includedir=DIR  where the header goes                     [PREFIX/include]
  DESTDIR           a directory that stands for / (packaging, tests)
END
}

# Sets the variables above from the arguments.
parse() {
    while [ $# -gt 0 ]; do
        case $1 in
        --prefix=* | --libdir=* | --includedir=*)
            name=${1%%=*}
            value=${1#*=}
            shift
            ;;
        --prefix | --libdir | --includedir)
            [ $# -ge 2 ] || fail "$1 wants a directory"
            name=$1
            value=$2
            shift 2
            ;;
        -h | --help)
            usage
            exit 0
            ;;
        *) fail "there is no option $1 (--help lists them)" ;;
        esac
        case $value in
        /*) ;;
        *) fail "$name wants a path that starts with /, not '$value'" ;;
        esac
        case $name in
        --prefix) prefix=$value ;;
        --libdir) libdir=$value ;;
        --includedir) includedir=$value ;;
        esac
    done
    [ -n "$version" ] || fail "$source/Cargo.toml names no version"
    : "${libdir:=$prefix/lib}" "${includedir:=$prefix/include}"
    root=${DESTDIR:-}
    mandir=$prefix/share/man
}

# Every file: its mode, or "link"; where it goes; for a link, what it names, else what it is made from.
files() {
    cat <<END
755 $libdir/libaio_posix.so.$version $built/libaio_posix.so
link $libdir/$soname libaio_posix.so.$version
link $libdir/libaio_posix.so $soname
644 $libdir/pkgconfig/aio_posix.pc $source/dist/aio_posix.pc.in
644 $includedir/aio_posix.h $source/include/aio_posix.h
755 $prefix/bin/aio-posix $built/aio-posix
644 $mandir/man1/aio-posix.1 $source/dist/man/aio-posix.1
644 $mandir/man7/aio_posix.7 $source/dist/man/aio_posix.7
END
}

# The dynamic linker's list of libraries, where it is ours to renew.
renew_linker_list() {
    if [ -z "$root" ] && [ "$(id -u)" = 0 ] && command -v ldconfig >/dev/null; then
        ldconfig
    fi
}
