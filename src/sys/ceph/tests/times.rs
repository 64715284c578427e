use std::time::Instant;

use super::*;

/// Prints how long a call takes, the first one and the median of some more.
fn time<T>(what: &str, mut call: impl FnMut(usize) -> T) -> T {
    let mut times = Vec::new();
    let mut last = None;
    for round in 0..9 {
        let start = Instant::now();
        last = Some(call(round));
        times.push(start.elapsed());
    }
    let first = times[0];
    times.sort_unstable();
    eprintln!("{what:<42} first {first:>10.2?}  median {:>10.2?}  worst {:>10.2?}", times[times.len() / 2], times[times.len() - 1]);
    last.unwrap()
}

#[test]
#[ignore = "measures: run it alone, with --nocapture"]
fn how_long_calls_take() {
    let Some(_cluster) = whole_cluster() else { return };
    time("connect and shut down", |_| drop(pool()));
    let pool = pool();
    let object = "time-object";
    time("mon_command health", |_| pool.mon_command(r#"{"prefix": "health"}"#).unwrap());
    time("mon_command df", |_| pool.mon_command(r#"{"prefix": "df", "format": "json"}"#).unwrap());
    time("key", |_| pool.key().unwrap());
    time("set_omap", |round| pool.set_omap(object, &[(format!("key.{round}"), b"value".to_vec())]).unwrap());
    time("omap", |_| pool.omap(object, &["key.1".to_owned()]).unwrap());
    time("omap_with_prefix", |_| pool.omap_with_prefix(object, "key").unwrap());
    time("remove_omap", |round| pool.remove_omap(object, &[format!("key.{round}")]).unwrap());
    time("lock", |round| pool.lock(object, "shared", &round.to_string(), "", Mode::Shared).unwrap());
    time("lockers", |_| pool.lockers(object, "shared").unwrap());
    time("unlock", |round| pool.unlock(object, "shared", &round.to_string()).unwrap());
    let mut watches = Vec::new();
    time("watch", |_| watches.push(pool.watch(object).unwrap()));
    time("check", |_| watches[0].check().unwrap());
    time("notify nine watches", |_| pool.notify(object, Duration::from_secs(5)).unwrap());
    time("unwatch", |_| drop(watches.pop()));
    time("notify nobody", |_| pool.notify(object, Duration::from_secs(5)).unwrap());
    time("blocklist", |round| pool.blocklist(&format!("192.0.2.77:0/{round}"), Duration::from_secs(1)).unwrap());
    let name = |round: usize| format!("time-{round}");
    time("create", |round| pool.create(&name(round), ByteSize::mib(64), &layout()).unwrap());
    time("image_ids of three", |_| pool.image_ids(&["time-1", "time-2", "none"]).unwrap());
    time("image_names", |_| pool.image_names("time-").unwrap());
    time("id_object", |_| pool.id_object("time-1").unwrap());
    time("open and close, read only", |round| drop(pool.open(&Which::Name(&name(round)), Access::ReadOnly).unwrap()));
    time("open and close, to write", |round| drop(pool.open(&Which::Name(&name(round)), Access::Write).unwrap()));
    shell("rbd bench --io-type write --io-size 4M --io-total 64M --io-threads 4 time-0");
    let parent = pool.open(&Which::Name("time-0"), Access::Write).unwrap();
    time("id, size, features, layout", |_| {
        (parent.id().unwrap(), parent.size().unwrap(), parent.features().unwrap(), parent.layout().unwrap())
    });
    time("set_metadata", |round| parent.set_metadata(&format!("key.{round}"), b"value").unwrap());
    time("metadata", |_| parent.metadata().unwrap());
    time("remove_metadata", |round| parent.remove_metadata(&format!("key.{round}")).unwrap());
    time("watchers", |_| parent.watchers().unwrap());
    time("lockers of the image", |_| parent.lockers().unwrap());
    time("group", |_| parent.group().unwrap());
    time("mirrored", |_| parent.mirrored().unwrap());
    time("used, 64 MiB", |_| parent.used(&wait()).unwrap());
    time("create_snapshot", |round| parent.create_snapshot(&format!("snap.{round}")).unwrap());
    let snaps = time("snapshots, nine", |_| parent.snapshots().unwrap());
    time("protect", |round| parent.protect(&format!("snap.{round}")).unwrap());
    time("unprotect", |round| parent.unprotect(&format!("snap.{round}")).unwrap());
    time("clone_image", |round| pool.clone_image("time-0", "snap.0", &format!("clone-{round}"), &layout()).unwrap());
    time("children, nine", |_| parent.children(snaps[0].id).unwrap());
    let clones: Vec<_> = (0..9).map(|round| pool.open(&Which::Name(&format!("clone-{round}")), Access::Write).unwrap()).collect();
    time("parent", |round| clones[round].parent().unwrap());
    time("flatten, 64 MiB", |round| clones[round].flatten(&wait()).unwrap());
    time("resize, larger", |round| clones[round].resize(ByteSize::mib(128), Shrink::Refuse, &wait()).unwrap());
    drop(clones);
    time("remove_snapshot", |round| parent.remove_snapshot(&format!("snap.{round}")).unwrap());
    drop(parent);
    time("rename", |round| pool.rename(&format!("clone-{round}"), &format!("renamed-{round}")).unwrap());
    let ids = time("image_ids of nine", |_| {
        let names: Vec<_> = (0..9).map(|round| format!("renamed-{round}")).collect();
        pool.image_ids(&names.iter().map(String::as_str).collect::<Vec<_>>()).unwrap()
    });
    let ids: Vec<_> = ids.into_iter().map(Option::unwrap).collect();
    time("trash", |round| pool.trash(&format!("renamed-{round}"), Duration::ZERO).unwrap());
    time("trash_entry", |round| pool.trash_entry(&ids[round]).unwrap());
    time("trash_list, nine", |_| pool.trash_list().unwrap());
    time("restore_trash", |round| pool.restore_trash(&ids[round], &format!("renamed-{round}")).unwrap());
    time("trash", |round| pool.trash(&format!("renamed-{round}"), Duration::ZERO).unwrap());
    time("remove_trash, 64 MiB", |round| pool.remove_trash(&ids[round], Deferment::Ignore, &wait()).unwrap());
    time("remove, empty but one", |round| pool.remove(&name(round), &wait()).unwrap());
    pool.remove_object(object).unwrap();
}
