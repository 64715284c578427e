//! Archives of odd shapes, which no tree has: what lies about them, what is in them twice, last or not at all. And compressed ones.

use reroot::ErrorKind;

use crate::judge::Verdict;
use crate::makers::Maker;

/// A tree to begin with.
macro_rules! small {
    ($then:literal) => {
        concat!(
            "umask 022; mkdir -p s/d/e s/empty; printf one > s/f; printf two > s/d/g; printf three > s/d/e/h; ln -s d s/l; ln s/f s/d/hard
             touch -d '2001-02-03 04:05:06.5' s/f s/d/g s/d/e/h s/d/e; touch -d 1999-01-01 s/d s/empty; touch -d 1998-01-01 s
             tar() { command tar --numeric-owner \"$@\"; }
            ",
            $then
        )
    };
}

/// As [`small!`], and then a program in Python that has the archive open, `add` to add a file with data, and `header` to make one.
macro_rules! python {
    ($then:literal) => {
        concat!(
            "python3 - <<'END'
import io, os, tarfile
archive = tarfile.open(os.environ['out'], 'w')
def header(name, kind=tarfile.REGTYPE, **more):
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.mtime = kind, 0o755 if kind == tarfile.DIRTYPE else 0o644, 1000000000
    for key, value in more.items():
        setattr(info, key, value)
    return info
def add(name, data=b'x', **more):
    archive.addfile(header(name, size=len(data), **more), io.BytesIO(data))
",
            $then,
            "
archive.close()
END"
        )
    };
}

const INVALID: Verdict = Verdict::Error(ErrorKind::InvalidImage);
const UNSAFE: Verdict = Verdict::Error(ErrorKind::UnsafePath);

const fn odd(name: &'static str, tool: &'static str, verdict: Verdict, script: &'static str) -> (Maker, Verdict) {
    (Maker { name, tool, script }, verdict)
}

/// Archives and what is to become of them.
pub(crate) const ODD: [(Maker, Verdict); 44] = [
    odd(
        "no-directories",
        "tar",
        Verdict::TarButDirectoryTimes,
        small!("cd s; find . ! -type d -print0 | tar --null -T - -cf $out"),
    ),
    odd("directories-last", "tar", Verdict::Tar, small!("cd s; find . -depth -print0 | tar --null --no-recursion -T - -cf $out")),
    odd(
        "names-reversed",
        "tar",
        Verdict::Tar,
        small!("cd s; find . ! -name hard -print0 | sort -rz | tar --null --no-recursion -T - -cf $out"),
    ),
    odd(
        "entries-twice",
        "tar",
        Verdict::Tar,
        small!("tar -C s -cf $out .; printf four > s/f; printf five > s/d/g; tar -C s -rf $out ."),
    ),
    odd("entries-ten-times", "tar", Verdict::Tar, small!("tar -C s -cf $out . . . . . . . . . .")),
    odd(
        "other-types-later",
        "tar",
        Verdict::Tar,
        small!("tar -C s -cf $out .; rm s/l s/f; printf x > s/l; ln -s d s/f; rm s/d/g; mkfifo s/d/g; tar -C s -rf $out ."),
    ),
    odd("updated", "tar", Verdict::Tar, small!("tar -C s -cf $out .; printf newer > s/f; tar -C s -uf $out .")),
    odd("deleted-from", "tar", Verdict::Tar, small!("tar -C s -cf $out .; tar --delete -f $out ./d/g")),
    odd(
        "joined-by-tar",
        "tar",
        Verdict::Tar,
        small!(
            "tar -C s --format=posix -cf $out .; mkdir t; printf x > t/more; tar -C t --format=gnu -cf second .; tar -Af $out second"
        ),
    ),
    odd(
        "joined-by-cat",
        "tar",
        Verdict::Tar,
        small!("tar -C s -cf first .; mkdir t; printf x > t/more; tar -C t -cf second .; cat first second > $out"),
    ),
    odd("garbage-at-the-end", "tar", Verdict::Tar, small!("tar -C s -cf $out .; head -c 99999 /dev/urandom >> $out")),
    odd("zeros-at-the-end", "tar", Verdict::Tar, small!("tar -C s -cf $out .; head -c 3000001 /dev/zero >> $out")),
    odd("one-block-of-zeros", "tar", Verdict::Tar, small!("tar -b 1 -C s -cf $out .; truncate -s -512 $out")),
    odd("no-end", "tar", INVALID, small!("tar -b 1 -C s -cf $out .; truncate -s -1024 $out")),
    odd("cut-in-a-header", "tar", INVALID, small!("tar -b 1 -C s -cf $out .; truncate -s 1700 $out")),
    odd("cut-in-data", "tar", INVALID, small!("head -c 9999 /dev/urandom > s/f; tar -C s -cf $out f; truncate -s 5000 $out")),
    odd(
        "garbage-between",
        "tar",
        INVALID,
        small!("tar -b 1 -C s -cf a .; (head -c 1024 a; head -c 512 /dev/urandom; tail -c +1025 a) > $out"),
    ),
    odd("no-entries", "tar", INVALID, "tar -cf $out -T /dev/null"),
    odd(
        "first-of-two-volumes",
        "tar",
        INVALID,
        small!("head -c 99999 /dev/urandom > s/f; tar -M -L 40 -C s -cf $out -f two -f three . < /dev/null"),
    ),
    odd(
        "second-of-two-volumes",
        "tar",
        INVALID,
        small!("head -c 99999 /dev/urandom > s/f; tar -M -L 60 -C s -cf one -f $out f < /dev/null"),
    ),
    odd("upward", "tar", UNSAFE, small!("cd s/d; tar -P -cf $out ../f ../d/e")),
    odd("upward-link", "tar", UNSAFE, small!("cd s/d; tar -P -cf $out --transform='s,^f,../f,h' -C .. f d/hard")),
    odd("absolute", "tar", Verdict::Tar, small!("tar -P -cf $out $PWD/s --transform=\"s,^$PWD,/,S\"")),
    odd("followed", "tar", Verdict::Tar, small!("tar -h --hard-dereference -C s -cf $out .")),
    odd(
        "reproducible",
        "tar",
        Verdict::Tar,
        small!("tar --sort=name --mtime=@1 --owner=5 --group=6 --mode=a+rX -C s --format=ustar -cf $out ."),
    ),
    odd(
        "overridden",
        "tar",
        Verdict::Tar,
        small!("tar --format=posix --pax-option='uid:=77,gid:=2097152,mtime:=-5.25,exthdr.name=%d/x,delete=atime' -C s -cf $out ."),
    ),
    odd(
        "global-overridden",
        "tar",
        Verdict::Tar,
        small!("tar --format=posix --pax-option='uid=77,gid=88,delete=mtime,delete=atime' -C s -cf $out ."),
    ),
    odd("no-permissions", "tar", Verdict::Tar, small!("tar --mode=0 -C s -cf $out .")),
    odd("archive-in-archive", "tar", Verdict::Tar, small!("tar -C s -cf s/inner.tar d; tar -C s -cf $out .")),
    odd(
        "git-archive",
        "git",
        Verdict::Tar,
        small!(
            "cd s; git init -q .; git add .; git -c user.name=n -c user.email=e@localhost commit -qm m
             git archive --prefix=top/ -o $out HEAD"
        ),
    ),
    odd(
        "contiguous",
        "python3",
        Verdict::Tar,
        python!("add('contiguous', b'data', kind=tarfile.CONTTYPE); add('old', b'data', kind=tarfile.AREGTYPE)"),
    ),
    odd(
        "old-directory",
        "python3",
        Verdict::Tar,
        python!("add('d/', b'', kind=tarfile.AREGTYPE); add('d/f'); add('e//', b''); add('e/./g')"),
    ),
    odd("unknown-type", "python3", INVALID, python!("add('f'); add('z', kind=b'Z')")),
    odd(
        "odd-paths",
        "python3",
        Verdict::TarButDirectoryTimes,
        python!(
            "add('.//a//b/./c'); add('././d/', b''); archive.addfile(header('e///', tarfile.DIRTYPE)); archive.addfile(header('./', tarfile.DIRTYPE)); add('e/./././f')"
        ),
    ),
    odd(
        "records",
        "python3",
        Verdict::Tar,
        python!(
            "add('cut', b'x', pax_headers={'path': 'a' * 200 + '..b', 'comment': 'of one', 'hdrcharset': 'BINARY', 'VENDOR.key': 'x=y', 'uname': 'u' * 70, 'atime': '5', 'ctime': '6'})"
        ),
    ),
    odd(
        "odd-numbers",
        "python3",
        Verdict::Tar,
        python!("add('f', uid=2**31, gid=2**32 - 2, mtime=2**33); add('g', mtime=-1); add('h', mode=0o107777)"),
    ),
    odd("exponents", "python3", INVALID, python!("add('f', mtime=-1e-9)")),
    odd("owner-of-all-ones", "python3", INVALID, python!("add('f', uid=2**32 - 1)")),
    odd("link-to-later", "python3", INVALID, python!("archive.addfile(header('a', tarfile.LNKTYPE, linkname='b')); add('b')")),
    odd(
        "link-to-directory",
        "python3",
        INVALID,
        python!("archive.addfile(header('d', tarfile.DIRTYPE)); archive.addfile(header('a', tarfile.LNKTYPE, linkname='d'))"),
    ),
    odd(
        "link-with-size",
        "python3",
        Verdict::Tar,
        python!("add('f', b'data'); archive.addfile(header('l', tarfile.LNKTYPE, linkname='f', size=4)); add('g')"),
    ),
    odd(
        "symlink-with-size",
        "python3",
        Verdict::Tar,
        python!("archive.addfile(header('l', tarfile.SYMTYPE, linkname='f', size=400)); add('g')"),
    ),
    odd("no-target", "python3", INVALID, python!("archive.addfile(header('l', tarfile.SYMTYPE)); add('g')")),
    odd(
        "modes-of-everything",
        "python3",
        Verdict::Tar,
        python!(
            "[add('%04o' % mode, mode=mode) for mode in range(0, 0o10000, 37)]; [archive.addfile(header('d%04o' % mode, tarfile.DIRTYPE, mode=mode)) for mode in range(0, 0o10000, 91)]"
        ),
    ),
];

/// Ways to compress `$tar` to `$out`.
pub(crate) const COMPRESSED: &[(Maker, Verdict)] = &[
    compressed("plain", "cat", "cat $tar > $out"),
    compressed("gzip", "gzip", "gzip -c $tar > $out"),
    compressed("gzip-1-named", "gzip", "cp $tar 'a name'; gzip -1N 'a name'; mv 'a name.gz' $out"),
    compressed("gzip-members", "gzip", "split -n 7 $tar part; for part in part*; do gzip -c $part; done > $out"),
    odd("gzip-zeros-after", "gzip", Verdict::Tar, "gzip -c $tar > $out; head -c 1000 /dev/zero >> $out"),
    compressed("pigz", "pigz", "pigz -c -p 4 -b 128 $tar > $out"),
    compressed("pigz-independent", "pigz", "pigz -c -p 4 -i -1 $tar > $out"),
    compressed("zstd", "zstd", "zstd -qc $tar > $out"),
    compressed("zstd-19", "zstd", "zstd -qc -12 -T2 --no-check $tar > $out"),
    compressed("zstd-long", "zstd", "zstd -qc --long=25 $tar > $out"),
    compressed(
        "zstd-frames",
        "zstd",
        "split -n 7 $tar part; for part in part*; do zstd -qc $part; printf 'P*M\\x18\\4\\0\\0\\0skip'; done > $out",
    ),
    #[cfg(feature = "xz")]
    compressed("xz", "xz", "xz -1c $tar > $out"),
    #[cfg(feature = "xz")]
    compressed("xz-blocks", "xz", "xz -0c -T2 --block-size=100000 --check=crc32 $tar > $out"),
    #[cfg(feature = "xz")]
    compressed("xz-streams", "xz", "split -n 7 $tar part; for part in part*; do xz -0c $part; head -c 8 /dev/zero; done > $out"),
    #[cfg(feature = "xz")]
    compressed("lzma", "xz", "xz -1 --format=lzma -c $tar > $out"),
    #[cfg(feature = "bzip2")]
    compressed("bzip2", "bzip2", "bzip2 -c $tar > $out"),
    #[cfg(feature = "bzip2")]
    compressed("bzip2-streams", "bzip2", "split -n 7 $tar part; for part in part*; do bzip2 -1c $part; done > $out"),
    #[cfg(feature = "lz4")]
    compressed("lz4", "lz4", "lz4 -qc $tar > $out"),
    #[cfg(feature = "lz4")]
    compressed("lz4-linked", "lz4", "lz4 -qc -9 -BD -B4 --content-size $tar > $out"),
    #[cfg(feature = "lz4")]
    compressed("lz4-legacy", "lz4", "lz4 -qlc $tar > $out"),
    compressed(
        "skopeo-zstd",
        "skopeo",
        "umoci init --layout image; umoci new --image image:t; umoci raw add-layer --image image:t $tar
         skopeo copy -q --insecure-policy --dest-compress-format zstd --dest-compress oci:image:t dir:copied
         for blob in copied/*; do zstd -tq $blob 2> errors && cp $blob $out && exit; done; exit 1",
    ),
];

const fn compressed(name: &'static str, tool: &'static str, script: &'static str) -> (Maker, Verdict) {
    odd(name, tool, Verdict::Tar, script)
}
