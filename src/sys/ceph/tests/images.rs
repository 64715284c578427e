use super::*;

#[test]
fn an_image_is_made_as_asked() {
    let Some(_cluster) = cluster() else { return };
    let pool = pool();
    let asked = Layout { order: Some(21), stripe_unit: 65536, stripe_count: 4, data_pool: Some("data".to_owned()), ..layout() };
    pool.create("made", ByteSize::mib(40), &asked).unwrap();
    assert_eq!(errno(pool.create("made", ByteSize::mib(40), &asked)), Errno::EEXIST);
    let image = pool.open(&Which::Name("made"), Access::ReadOnly).unwrap();
    let found = image.layout().unwrap();
    let implied = features::STRIPING | features::DATA_POOL;
    assert_eq!(found, Layout { features: asked.features.map(|asked| asked | implied), ..asked.clone() });
    assert_eq!(image.size().unwrap(), ByteSize::mib(40));
    // What one lies as, another can be made with.
    pool.create("made-alike", ByteSize::mib(1), &found).unwrap();
    let alike = pool.open(&Which::Name("made-alike"), Access::ReadOnly).unwrap();
    assert_eq!(alike.layout().unwrap(), found);
    assert_eq!(alike.op_features().unwrap(), 0);
    pool.create("made-plain", ByteSize::mib(1), &Layout { features: Some(features::LAYERING), ..layout() }).unwrap();
    let plain = pool.open(&Which::Name("made-plain"), Access::ReadOnly).unwrap().layout().unwrap();
    assert_eq!(plain, Layout { features: Some(features::LAYERING), stripe_unit: 4 << 20, stripe_count: 1, ..layout() });
    assert_eq!(
        errno(pool.create("made-nowhere", ByteSize::mib(1), &Layout { data_pool: Some("nothing".to_owned()), ..layout() })),
        Errno::ENOENT
    );
    // Only the tool objects to names that it could not name again.
    pool.create("made@b", ByteSize::mib(1), &layout()).unwrap();
    pool.remove("made@b", &wait()).unwrap();
    assert_eq!(errno(pool.open(&Which::Name("nothing"), Access::Write)), Errno::ENOENT);
    assert_eq!(errno(pool.open(&Which::Id("nothing"), Access::ReadOnly)), Errno::ENOENT);
    drop((image, alike));
    for name in ["made", "made-alike", "made-plain"] {
        pool.remove(name, &wait()).unwrap();
    }
    assert_eq!(errno(pool.remove("made", &wait())), Errno::ENOENT);
    assert_eq!(pool.image_names("made").unwrap(), [""; 0]);
}

#[test]
fn only_who_writes_watches() {
    let Some(_cluster) = cluster() else { return };
    let (ours, theirs) = (pool(), pool());
    let image = image(&ours, "watched");
    let read_only = theirs.open(&Which::Name("watched"), Access::ReadOnly).unwrap();
    let watchers = read_only.watchers().unwrap();
    assert_eq!(watchers.len(), 1, "{watchers:?}");
    assert_eq!((watchers[0].client, &watchers[0].address), (ours.instance(), &ours.addresses().unwrap()));
    assert_eq!(image.watchers().unwrap(), watchers);
    // In use by others, it is not removed, but renamed and thrown away.
    assert_eq!(errno(theirs.remove("watched", &wait())), Errno::EBUSY);
    theirs.rename("watched", "watched-still").unwrap();
    theirs.trash("watched-still", Duration::ZERO).unwrap();
    let id = read_only.id().unwrap();
    assert_eq!(errno(ours.remove_trash(&id, Deferment::Ignore, &wait())), Errno::EBUSY);
    drop(image);
    assert_eq!(read_only.watchers().unwrap(), []);
    // Open to read only, it is removed; who has it open hears nothing of what others do.
    ours.remove_trash(&id, Deferment::Ignore, &wait()).unwrap();
    assert_eq!(read_only.size().unwrap(), ByteSize::mib(64));
}

#[test]
fn a_rename_is_seen_and_never_overwrites() {
    let Some(_cluster) = cluster() else { return };
    let pool = pool();
    let image = image(&pool, "renamed");
    let id = image.id().unwrap();
    pool.create("renamed-other", ByteSize::mib(1), &layout()).unwrap();
    assert_eq!(errno(pool.rename("renamed", "renamed-other")), Errno::EEXIST);
    assert_eq!(errno(pool.rename("renamed-none", "renamed-new")), Errno::ENOENT);
    pool.rename("renamed", "renamed-new").unwrap();
    assert_eq!(pool.image_ids(&["renamed", "renamed-new"]).unwrap(), [None, Some(id.clone())]);
    assert_eq!(pool.id_object("renamed").unwrap(), None);
    assert_eq!(pool.image_name(&id).unwrap().as_deref(), Some("renamed-new"));
    // Under the handle of before it goes on.
    image.set_metadata("key", b"value").unwrap();
    drop(image);
    // What is left when a rename is killed after its first step: the object of the new name.
    let value = [&15u32.to_le_bytes()[..], b"123456789abcdef"].concat();
    std::fs::write("/tmp/id", value).unwrap();
    shell("rados -p rbd put rbd_id.renamed-stale /tmp/id");
    assert_eq!(pool.id_object("renamed-stale").unwrap().as_deref(), Some("123456789abcdef"));
    assert_eq!(errno(pool.rename("renamed-new", "renamed-stale")), Errno::EEXIST);
    assert_eq!(errno(pool.create("renamed-stale", ByteSize::mib(1), &layout())), Errno::EEXIST);
    assert_eq!(errno(pool.open(&Which::Name("renamed-stale"), Access::ReadOnly)), Errno::ENOENT);
    pool.remove_id_object("renamed-stale").unwrap();
    pool.rename("renamed-new", "renamed-stale").unwrap();
    for name in ["renamed-stale", "renamed-other"] {
        pool.remove(name, &wait()).unwrap();
    }
}

#[test]
fn notes_are_kept_with_an_image() {
    let Some(_cluster) = cluster() else { return };
    let pool = pool();
    let image = image(&pool, "noted");
    assert!(image.metadata().unwrap().is_empty());
    for number in 0..80 {
        image.set_metadata(&format!("reroot.{number:02}"), "x".repeat(number).as_bytes()).unwrap();
    }
    image.set_metadata("reroot.00", "über".as_bytes()).unwrap();
    let notes = image.metadata().unwrap();
    assert_eq!(notes.len(), 80);
    assert_eq!((&notes["reroot.00"][..], notes["reroot.79"].len()), ("über".as_bytes(), 79));
    assert_eq!(shell("rbd image-meta get noted reroot.00").trim(), "über");
    image.remove_metadata("reroot.00").unwrap();
    assert!(!image.metadata().unwrap().contains_key("reroot.00"));
    assert_eq!(errno(image.remove_metadata("reroot.00")), Errno::ENOENT);
    let reader = pool.open(&Which::Name("noted"), Access::ReadOnly).unwrap();
    assert_eq!(reader.metadata().unwrap().len(), 79);
    assert_eq!(errno(reader.set_metadata("key", b"value")), Errno::EROFS);
    drop((image, reader));
    pool.remove("noted", &wait()).unwrap();
}

#[test]
fn the_trash_keeps_what_it_is_given() {
    let Some(_cluster) = cluster() else { return };
    let pool = pool();
    let id = image(&pool, "trashed").id().unwrap();
    assert_eq!(pool.trash_entry(&id).unwrap(), None);
    pool.trash("trashed", Duration::from_secs(3600)).unwrap();
    assert_eq!(pool.image_ids(&["trashed"]).unwrap(), [None]);
    let entry = pool.trash_entry(&id).unwrap().unwrap();
    assert_eq!((&*entry.id, &*entry.name, entry.source), (&*id, "trashed", TrashSource::User));
    let delay = entry.deferment_end.duration_since(entry.deleted).unwrap();
    assert_eq!(delay, Duration::from_secs(3600));
    assert!(pool.trash_list().unwrap().contains(&entry));
    assert_eq!(errno(pool.remove_trash(&id, Deferment::Respect, &wait())), Errno::EPERM);
    assert_eq!(errno(pool.restore_trash("none", "trashed")), Errno::ENOENT);
    pool.create("trashed", ByteSize::mib(1), &layout()).unwrap();
    assert_eq!(errno(pool.restore_trash(&id, "trashed")), Errno::EEXIST);
    pool.restore_trash(&id, "trashed-back").unwrap();
    assert_eq!(pool.image_ids(&["trashed-back"]).unwrap(), [Some(id.clone())]);
    // By its id it can be opened in the trash too.
    pool.trash("trashed-back", Duration::ZERO).unwrap();
    assert_eq!(pool.open(&Which::Id(&id), Access::ReadOnly).unwrap().size().unwrap(), ByteSize::mib(64));
    pool.remove_trash(&id, Deferment::Respect, &wait()).unwrap();
    assert_eq!(pool.trash_entry(&id).unwrap(), None);
    assert_eq!(errno(pool.remove_trash(&id, Deferment::Ignore, &wait())), Errno::ENOENT);
    pool.remove("trashed", &wait()).unwrap();
}

#[test]
fn an_image_grows_and_shrinks_when_it_may() {
    let Some(_cluster) = cluster() else { return };
    let pool = pool();
    let image = image(&pool, "resized");
    assert_eq!(image.used(&wait()).unwrap(), ByteSize::ZERO);
    shell("rbd bench --io-type write --io-size 4M --io-total 32M --io-threads 4 resized");
    assert_eq!(image.used(&wait()).unwrap(), ByteSize::mib(32));
    image.resize(ByteSize::mib(128), Shrink::Refuse, &wait()).unwrap();
    assert_eq!(image.size().unwrap(), ByteSize::mib(128));
    assert_eq!(errno(image.resize(ByteSize::mib(8), Shrink::Refuse, &wait())), Errno::EINVAL);
    image.resize(ByteSize::mib(8), Shrink::Allow, &wait()).unwrap();
    assert_eq!((image.size().unwrap(), image.used(&wait()).unwrap()), (ByteSize::mib(8), ByteSize::mib(8)));
    drop(image);
    pool.remove("resized", &wait()).unwrap();
}

#[test]
fn locks_groups_and_mirrors_are_seen() {
    let Some(_cluster) = cluster() else { return };
    let pool = pool();
    let image = image(&pool, "grouped");
    assert_eq!(image.lockers().unwrap().held, []);
    assert_eq!(image.group().unwrap(), None);
    assert_eq!(image.mirrored().unwrap(), Mirroring::Off);
    shell("rbd group create g; rbd group image add g grouped");
    let group = image.group().unwrap();
    assert_eq!(group, Some(GroupName { name: "g".to_owned(), pool_id: pool.pool_id() }));
    shell("rbd group image remove g grouped; rbd group remove g");
    image.set_metadata("a", b"b").unwrap();
    let held = image.lockers().unwrap().held;
    assert_eq!((held.len(), &held[0].address), (1, &pool.addresses().unwrap()));
    assert!(held[0].cookie.starts_with("auto "), "{held:?}");
    drop(image);
    shell("rbd group create g; rbd group image add g grouped");
    assert_eq!(errno(pool.remove("grouped", &wait())), Errno::EMLINK);
    pool.rename("grouped", "grouped-2").unwrap();
    pool.rename("grouped-2", "grouped").unwrap();
    shell("rbd group image remove g grouped; rbd group remove g");
    shell("rbd lock add grouped by-hand");
    let image = pool.open(&Which::Name("grouped"), Access::ReadOnly).unwrap();
    let lockers = image.lockers().unwrap();
    assert_eq!((lockers.held.len(), &*lockers.held[0].cookie), (1, "by-hand"));
    // Without looking first, the library would wait until it is unlocked.
    assert_eq!(errno(pool.remove("grouped", &wait())), Errno::EBUSY);
    assert_eq!(errno(pool.trash("grouped", Duration::ZERO)), Errno::EBUSY);
    assert_eq!(errno(pool.rename("grouped", "grouped-2")), Errno::EROFS);
    let writer = pool.open(&Which::Name("grouped"), Access::Write).unwrap();
    assert_eq!(errno(writer.set_metadata("a", b"b")), Errno::EROFS);
    drop(writer);
    shell("rbd lock rm grouped by-hand $(rbd lock ls grouped --format json | sed 's/.*\"locker\":\"\\([^\"]*\\)\".*/\\1/')");
    drop(image);
    pool.remove("grouped", &wait()).unwrap();
}

/// librbd's callback that tells of an open image locks it once more, and an image that is closed at once was gone by then: the process aborted.
#[test]
fn an_image_may_be_closed_as_soon_as_it_is_open() {
    let Some(_cluster) = cluster() else { return };
    let pool = pool();
    drop(image(&pool, "brief"));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..200 {
                    drop(pool.open(&Which::Name("brief"), Access::ReadOnly).unwrap());
                }
            });
        }
    });
    pool.remove("brief", &wait()).unwrap();
}
