//! Who makes the archives: programs in other people's hands, each by a line of shell.

/// The trees that `trees.py` makes.
pub(crate) const TREES: [&str; 12] = [
    "names",
    "links",
    "metadata",
    "fractions",
    "attributes",
    "attribute_names",
    "acls",
    "holes",
    "nodes",
    "sizes",
    "shapes",
    "empty",
];

/// A way to make an archive.
#[derive(Debug)]
pub(crate) struct Maker {
    pub(crate) name: &'static str,
    /// The program that it needs.
    pub(crate) tool: &'static str,
    /// Makes the archive `$out`, in the current directory, which is empty; for a maker of trees, of the directory `$src`.
    pub(crate) script: &'static str,
}

const fn maker(name: &'static str, tool: &'static str, script: &'static str) -> Maker {
    Maker { name, tool, script }
}

/// Whoever makes an archive of a tree.
pub(crate) const MAKERS: [Maker; 38] = [
    maker("tar-v7", "tar", "tar --format=v7 --numeric-owner -C $src -cf $out ."),
    maker("tar-oldgnu", "tar", "tar --format=oldgnu --numeric-owner -C $src -cf $out ."),
    maker("tar-oldgnu-sparse", "tar", "tar --format=oldgnu --numeric-owner --sparse -C $src -cf $out ."),
    maker("tar-gnu", "tar", "tar --format=gnu --numeric-owner -C $src -cf $out ."),
    maker("tar-gnu-sparse", "tar", "tar --format=gnu --numeric-owner --sparse -C $src -cf $out ."),
    maker("tar-gnu-incremental", "tar", "tar --format=gnu --numeric-owner -g snapshot -C $src -cf $out ."),
    maker("tar-gnu-label", "tar", "tar --format=gnu --numeric-owner --label='a label' -C $src -cf $out ."),
    maker("tar-gnu-block-1", "tar", "tar --format=gnu --numeric-owner -b 1 -C $src -cf $out ."),
    maker("tar-gnu-block-2048", "tar", "tar --format=gnu --numeric-owner -b 2048 -C $src -cf $out ."),
    maker("tar-ustar", "tar", "tar --format=ustar --sort=name --numeric-owner -C $src -cf $out ."),
    maker("tar-posix", "tar", "tar --format=posix --numeric-owner -C $src -cf $out ."),
    maker("tar-posix-all", "tar", "tar --format=posix --numeric-owner --xattrs --xattrs-include='*' --acls -C $src -cf $out ."),
    maker("tar-posix-xattrs", "tar", "tar --format=posix --numeric-owner --xattrs --xattrs-include='*' -C $src -cf $out ."),
    maker("tar-posix-named", "tar", "tar --format=posix --xattrs --acls -C $src -cf $out ."),
    maker("tar-posix-sparse-0.0", "tar", "tar --format=posix --numeric-owner --sparse --sparse-version=0.0 -C $src -cf $out ."),
    maker("tar-posix-sparse-0.1", "tar", "tar --format=posix --numeric-owner --sparse --sparse-version=0.1 -C $src -cf $out ."),
    maker("tar-posix-sparse-1.0", "tar", "tar --format=posix --numeric-owner --sparse --sparse-version=1.0 -C $src -cf $out ."),
    maker(
        "tar-posix-incremental",
        "tar",
        "tar --format=posix --numeric-owner --xattrs --xattrs-include='*' --acls -g snapshot -C $src -cf $out .",
    ),
    maker("tar-posix-label", "tar", "tar --format=posix --numeric-owner --label='a label' -C $src -cf $out ."),
    maker("tar-posix-global", "tar", "tar --format=posix --numeric-owner --pax-option='globexthdr.name=g,comment=of all,uid=77' -C $src -cf $out ."),
    maker("tar-posix-no-prefix", "tar", "tar --format=posix --numeric-owner -C $src -cf $out --transform='s,^\\./,,S' ."),
    maker("tar-absolute", "tar", "tar --format=gnu --numeric-owner -P -cf $out --transform=\"s,^$src,/absolute,S\" $src"),
    maker("bsdtar-v7", "bsdtar", "bsdtar --format=v7tar --numeric-owner -C $src -cf $out ."),
    maker("bsdtar-ustar", "bsdtar", "bsdtar --format=ustar --numeric-owner -C $src -cf $out ."),
    maker("bsdtar-gnutar", "bsdtar", "bsdtar --format=gnutar --numeric-owner -C $src -cf $out ."),
    maker("bsdtar-paxr", "bsdtar", "bsdtar --format=paxr --numeric-owner --acls --xattrs -C $src -cf $out ."),
    maker("bsdtar-pax", "bsdtar", "bsdtar --format=pax --numeric-owner --acls --xattrs -C $src -cf $out ."),
    maker("bsdtar-pax-sparse", "bsdtar", "bsdtar --format=pax --numeric-owner --read-sparse -C $src -cf $out ."),
    maker("python-ustar", "python3", "python3 -c \"$python\" USTAR"),
    maker("python-gnu", "python3", "python3 -c \"$python\" GNU"),
    maker("python-pax", "python3", "python3 -c \"$python\" PAX"),
    maker("python-pax-global", "python3", "python3 -c \"$python\" PAX comment=x gid=88 mtime=5.5"),
    // The program comes with the module; the interpreter alone may be there without it.
    maker("perl", "prove", "cd $src && find . ! -type p ! -type b ! -type c -print0 | sort -z | perl -MArchive::Tar -0 -e \"$perl\""),
    maker("busybox", "busybox", "busybox tar -C $src -cf $out ."),
    maker("pax-ustar", "pax", "cd $src && pax -w -x ustar -f $out ."),
    maker("pax-tar", "pax", "cd $src && pax -w -x tar -f $out ."),
    maker(
        "umoci",
        "umoci",
        "umoci init --layout image && umoci new --image image:t && umoci unpack --image image:t bundle
         cp -a $src/. bundle/rootfs/
         [ ! -e bundle/rootfs/odd ] || setfattr -x user.a=b bundle/rootfs/odd
         umoci repack --image image:t bundle
         for blob in image/blobs/sha256/*; do gzip -dc $blob > $out 2> blob.errors && exit; done; exit 1",
    ),
    maker(
        "dpkg-deb",
        "dpkg-deb",
        "cp -a $src tree && find tree -name $'*\n*' -delete && mkdir tree/DEBIAN && chmod 0755 tree/DEBIAN
         printf 'Package: corpus\\nVersion: 1\\nArchitecture: all\\nMaintainer: nobody <nobody@localhost>\\nDescription: a tree\\n' > tree/DEBIAN/control
         dpkg-deb -Znone --build tree corpus.deb > /dev/null && dpkg-deb --fsys-tarfile corpus.deb > $out",
    ),
];

/// `$python`: every entry by itself, for what a format cannot hold is an exception that is to cost no more than that entry.
pub(crate) const PYTHON: &str = r#"
import os, sys, tarfile
headers = dict(word.split('=') for word in sys.argv[2:])
out, src = os.environ['out'], os.environ['src']
with tarfile.open(out, 'w', format=getattr(tarfile, sys.argv[1] + '_FORMAT'), pax_headers=headers) as archive:
    archive.add(src, '.', recursive=False)
    for folder, folders, files in os.walk(src):
        for name in sorted(folders + files):
            path = os.path.join(folder, name)
            try:
                archive.add(path, './' + os.path.relpath(path, src), recursive=False)
            except ValueError as error:
                print(ascii(path), error, file=sys.stderr)
"#;

/// `$perl`: the names come from standard input, each ended by a NUL byte.
pub(crate) const PERL: &str = r#"chomp(my @names = <STDIN>); my $archive = Archive::Tar->new; $archive->add_files(@names); $archive->write($ENV{out}) or die;"#;
