//! What images in layers cost: memory and time.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use reroot::{ErrorKind, Image, Rebuild};
use serde_json::json;

use crate::Stand;
use crate::forge::{Forge, INDEX, LAYER, layer, machine, sha256};

/// Says to a process that it is the one to be measured.
const MEASURED: &str = "REROOT_OCI_COSTS";

/// Runs `work` in a process of its own, as the test `name`, whose memory and time are bounded.
fn within_bounds(name: &str, work: impl FnOnce()) {
    let begun = std::time::Instant::now();
    if std::env::var_os(MEASURED).is_none() {
        let mut command = Command::new(std::env::current_exe().unwrap());
        let command = command.args(["--exact", &format!("costs::{name}"), "--nocapture", "--test-threads=1"]).env(MEASURED, "1");
        let status = command.status().unwrap();
        assert!(status.success(), "{name}: {status}");
        return;
    }
    work();
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak: u64 = line.trim().strip_suffix(" kB").unwrap().trim().parse().unwrap();
    println!("{name}: {peak} KiB, {:?}", begun.elapsed());
    assert!(peak < 64 << 10, "{name}: {peak} KiB");
    assert!(begun.elapsed().as_secs() < 60, "{name}: {:?}", begun.elapsed());
}

#[test]
fn emptying_many_directories_far_down_takes_little_memory() {
    within_bounds("emptying_many_directories_far_down_takes_little_memory", || {
        let stand = Stand::new();
        // Each level is made by one entry, so that no name is too long for its header.
        let deep = vec!["d".repeat(200); 18].join("/");
        // Into a file: it takes more room than there is memory to be used.
        let write = |path: &Path, count: usize, end: &str| {
            let mut builder = tar::Builder::new(std::io::BufWriter::new(fs::File::create(path).unwrap()));
            let mut header = tar::Header::new_gnu();
            header.set_size(0);
            header.set_mode(0o755);
            header.set_entry_type(tar::EntryType::Directory);
            for number in 0..count {
                builder.append_data(&mut header, format!("{deep}/{number}"), &b""[..]).unwrap();
            }
            if !end.is_empty() {
                header.set_entry_type(tar::EntryType::Regular);
                builder.append_data(&mut header, end, &b""[..]).unwrap();
            }
            std::io::Write::flush(&mut builder.into_inner().unwrap()).unwrap();
            let output = Command::new("sha256sum").arg(path).output().unwrap();
            let digest = format!("sha256:{}", &String::from_utf8(output.stdout).unwrap()[..64]);
            (digest, fs::metadata(path).unwrap().len())
        };
        let forge = Forge::new(stand.path("layout"));
        let mut blobs = Vec::new();
        let mut diff_ids = Vec::new();
        for end in ["", ".wh..wh..opq"] {
            let path = stand.path("layer");
            let (digest, size) = write(&path, 20_000, end);
            fs::rename(&path, forge.blob_path(&digest)).unwrap();
            blobs.push(json!({"mediaType": LAYER, "digest": digest, "size": size}));
            diff_ids.push(digest);
        }
        forge.index(&[forge.manifest(&format!("linux/{}", machine()), &blobs, &diff_ids)]);
        stand.rebuild(Image::open(&forge.path).unwrap());
        assert_eq!(fs::read_dir(stand.root().join(deep)).unwrap().count(), 20_000);
    });
}

#[test]
fn documents_take_little_memory_and_time() {
    within_bounds("documents_take_little_memory_and_time", || {
        // Just under 4 MiB of what is cheap to write and dear to keep.
        let fill = |unit: &str| vec![unit; ((4 << 20) - 4096) / (unit.len() + 1)].join(",");
        let refuses = |lie: &dyn Fn(&Path)| {
            let stand = Stand::new();
            fs::create_dir_all(stand.path("image")).unwrap();
            lie(&stand.path("image"));
            let error = stand.refuses(Image::open(stand.path("image")));
            println!("{error}");
            assert_eq!(error.kind(), ErrorKind::LimitExceeded, "{}", error.report());
        };
        refuses(&|path| {
            let forge = Forge::new(path.into());
            let mut inner = forge.image(&[layer(&["a"])]);
            for _ in 0..8 {
                let padding = "x".repeat((4 << 20) - 4096);
                inner = forge.document(INDEX, &json!({"manifests": [inner], "padding": padding}));
            }
            forge.index(&[inner]);
        });
        refuses(&|path| {
            let forge = Forge::new(path.into());
            let filling = fill(r#"{"digest":"","size":0}"#);
            fs::write(forge.path.join("index.json"), format!(r#"{{"manifests":[{filling}]}}"#)).unwrap();
        });
        refuses(&|path| {
            let tags = fill("\"\"");
            fs::write(path.join("manifest.json"), format!(r#"[{{"Config":"c.json","RepoTags":[{tags}],"Layers":[]}}]"#)).unwrap();
        });
        refuses(&|path| {
            let configs: Vec<_> = (0..256).map(|number| json!({"Config": format!("{number}.json"), "Layers": ["l"]})).collect();
            let padding = "x".repeat((4 << 20) - 4096);
            fs::write(path.join("0.json"), json!({"rootfs": {"diff_ids": []}, "padding": padding}).to_string()).unwrap();
            (1..256).for_each(|number| symlink("0.json", path.join(format!("{number}.json"))).unwrap());
            fs::write(path.join("manifest.json"), json!(configs).to_string()).unwrap();
        });
        // One configuration named again and again is read once, and once more for its layers.
        let stand = Stand::new();
        let path = stand.path("image");
        fs::create_dir_all(&path).unwrap();
        let stream = layer(&["a"]);
        fs::write(path.join("l"), &stream).unwrap();
        let config = json!({
            "os": "linux", "architecture": machine(), "rootfs": {"diff_ids": [sha256(&stream)]},
            "padding": "x".repeat((4 << 20) - 4096),
        });
        fs::write(path.join("c.json"), config.to_string()).unwrap();
        fs::write(path.join("manifest.json"), json!(vec![json!({"Config": "c.json", "Layers": ["l"]}); 256]).to_string()).unwrap();
        stand.rebuild(Image::open(&path).unwrap());
        assert_eq!(stand.paths(), ["a"]);
        // Who cancels is heeded before another document is read.
        stand.reset();
        let cancelled = reroot::CancelToken::new();
        cancelled.cancel();
        let error = stand.run(Rebuild::new(Image::open(&path).unwrap()).cancel(cancelled)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cancelled);
    });
}
