//! Layers that an attacker made. Each is unpacked as root on a real file system.

use std::io::{BufReader, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tar::EntryType;
use tempfile::TempDir;

use super::made::{Layer, Packed, Tar, put};
use crate::digest::Digest;
use crate::layer::{Expected, LayerError, Stats, TreeError, unpack};
use crate::options::TarLimits;

/// A layer's directory, beside a file that no layer may touch.
struct Victim {
    dir: TempDir,
}

impl Victim {
    fn new() -> Self {
        // In memory: a disk's own moods would be taken for the time of unpacking.
        let dir = TempDir::new_in("/dev/shm").unwrap();
        std::fs::create_dir(dir.path().join("layer")).unwrap();
        put(&dir.path().join("secret"), b"secret");
        Self { dir }
    }

    fn layer(&self) -> PathBuf {
        self.dir.path().join("layer")
    }

    fn at(&self, path: &str) -> PathBuf {
        self.layer().join(path)
    }

    fn unpack(&self, layer: &Layer, limits: &TarLimits) -> Result<Stats, LayerError> {
        let expected = Expected { blob: Some(Digest::of(&layer.blob)), diff_id: layer.diff_id };
        unpack(layer.blob.as_slice(), expected, &self.layer(), limits).map(|u| u.stats)
    }

    fn take(&self, tar: Tar) -> Result<Stats, LayerError> {
        self.unpack(&tar.layer(Packed::Plain), &TarLimits::default())
    }

    fn is_whole(&self) {
        assert_eq!(std::fs::read(self.dir.path().join("secret")).unwrap(), b"secret");
        let mode = std::fs::metadata(self.dir.path().join("secret")).unwrap().mode();
        assert_eq!(mode & 0o7777, 0o644);
        assert_eq!(std::fs::read_dir(self.dir.path()).unwrap().count(), 2, "nothing beside it");
    }
}

#[test]
fn names_that_lead_out_stay_within() {
    let victim = Victim::new();
    let outside = victim.dir.path().join("secret");
    let outside = outside.to_str().unwrap();
    let tar = Tar::new()
        .file("../secret", b"1")
        .file("../../../../../../../../tmp/b-escape", b"2")
        .file("/absolute", b"3")
        .file("a/../../b", b"4")
        .symlink("out", "../")
        .file("out/secret", b"5")
        .symlink("root", "/")
        .file("root/under", b"6")
        .symlink("up", "../../../../../../..")
        .file("up/etc-b", b"7")
        .symlink("target", outside)
        .file("target", b"8");
    victim.take(tar).unwrap();
    victim.is_whole();
    assert!(!Path::new("/tmp/b-escape").exists());
    assert_eq!(std::fs::read(victim.at("secret")).unwrap(), b"5");
    assert_eq!(std::fs::read(victim.at("tmp/b-escape")).unwrap(), b"2");
    assert_eq!(std::fs::read(victim.at("absolute")).unwrap(), b"3");
    assert_eq!(std::fs::read(victim.at("b")).unwrap(), b"4");
    assert_eq!(std::fs::read(victim.at("under")).unwrap(), b"6");
    assert_eq!(std::fs::read(victim.at("etc-b")).unwrap(), b"7");
    assert_eq!(std::fs::read(victim.at("target")).unwrap(), b"8");
    assert!(victim.at("target").symlink_metadata().unwrap().is_file());
}

#[test]
fn a_parent_that_becomes_a_link_is_not_followed_from_memory() {
    let victim = Victim::new();
    let tar = Tar::new()
        .dir("a")
        .file("a/one", b"1")
        .symlink("a", "/etc")
        .file("a/passwd", b"2")
        .dir("a")
        .file("a/three", b"3");
    // `a/one` goes with the directory; `/etc` is the layer's own, and absent.
    let error = victim.take(tar).unwrap_err();
    assert!(matches!(error, LayerError::Unpack(TreeError::Make { .. })), "{error:?}");
    victim.is_whole();
}

#[test]
fn a_hard_link_reaches_only_what_the_layer_has() {
    let victim = Victim::new();
    let outside = victim.dir.path().join("secret");
    victim.take(Tar::new().link("x", outside.to_str().unwrap())).unwrap_err();
    victim.take(Tar::new().link("x", "../secret")).unwrap_err();
    victim.take(Tar::new().symlink("s", "../secret").link("x", "s")).unwrap();
    assert!(victim.at("x").symlink_metadata().unwrap().is_symlink(), "the link itself was linked");
    victim.take(Tar::new().file("f", b"f").link("g", "f").link("g", "g")).unwrap();
    assert_eq!(std::fs::metadata(victim.at("g")).unwrap().nlink(), 2);
    victim.is_whole();
}

#[test]
fn modes_and_owners_are_never_set_through_a_link() {
    let victim = Victim::new();
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(EntryType::Symlink);
    header.set_path("l").unwrap();
    header.set_link_name_literal("../secret").unwrap();
    header.set_mode(0o4777);
    header.set_uid(5);
    header.set_gid(5);
    header.set_size(0);
    header.set_cksum();
    victim.take(Tar::new().header(&header, b"")).unwrap();
    victim.is_whole();
    assert_eq!(victim.at("l").symlink_metadata().unwrap().uid(), 5);
}

#[test]
fn devices_pipes_and_set_id_files_are_made_as_told() {
    let victim = Victim::new();
    let mut setuid = tar::Header::new_ustar();
    setuid.set_path("su").unwrap();
    setuid.set_mode(0o4755);
    setuid.set_uid(7);
    setuid.set_gid(8);
    setuid.set_mtime(1000);
    setuid.set_size(1);
    setuid.set_cksum();
    let capability: &[u8] = &[1, 0, 0, 2, 0x0a, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let tar = Tar::new()
        .entry(EntryType::Char, "c", "", b"")
        .entry(EntryType::Block, "b", "", b"")
        .entry(EntryType::Fifo, "f", "", b"")
        .pax(&[
            ("SCHILY.xattr.security.capability", capability),
            ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
        ])
        .header(&setuid, b"x");
    victim.take(tar).unwrap();
    assert!(victim.at("c").metadata().unwrap().file_type().is_char_device());
    assert_eq!(victim.at("c").metadata().unwrap().rdev(), rustix::fs::makedev(1, 3));
    assert!(victim.at("b").metadata().unwrap().file_type().is_block_device());
    assert!(victim.at("f").metadata().unwrap().file_type().is_fifo());
    let su = victim.at("su").metadata().unwrap();
    assert_eq!((su.mode() & 0o7777, su.uid(), su.gid(), su.mtime()), (0o4755, 7, 8, 1000));
    let mut value = [0; 64];
    let length = rustix::fs::getxattr(victim.at("su"), "security.capability", &mut value).unwrap();
    assert_eq!(&value[..length], capability, "a newline within it and all");
    let redirect = rustix::fs::getxattr(victim.at("su"), "trusted.overlay.redirect", &mut value);
    assert!(redirect.is_err(), "a layer may not speak to overlayfs");
}

#[test]
fn whiteouts_hide_lower_layers_and_nothing_of_their_own() {
    let victim = Victim::new();
    let tar = Tar::new()
        .file("dir/.wh.gone", b"")
        .dir("opaque")
        .file("opaque/.wh..wh..opq", b"")
        .file("mine", b"m")
        .file(".wh.mine", b"")
        .file(".wh.later", b"")
        .dir("later")
        .file(".wh.file", b"")
        .file("file", b"f")
        .file(".wh..wh.plnk", b"");
    victim.take(tar).unwrap();
    let gone = victim.at("dir/gone").symlink_metadata().unwrap();
    assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
    let is_opaque = |path| {
        let mut value = [0; 1];
        rustix::fs::getxattr(victim.at(path), "trusted.overlay.opaque", &mut value).is_ok()
    };
    assert!(is_opaque("opaque") && is_opaque("later") && !is_opaque("dir"));
    assert_eq!(std::fs::read(victim.at("mine")).unwrap(), b"m");
    assert_eq!(std::fs::read(victim.at("file")).unwrap(), b"f");
    for bad in [".wh.", "a/.wh..", ".wh..."] {
        victim.take(Tar::new().file(bad, b"")).unwrap_err();
    }
    victim.is_whole();
}

#[test]
fn sparse_files_of_both_dialects_have_their_holes() {
    let victim = Victim::new();
    let mut old = tar::Header::new_gnu();
    old.set_entry_type(EntryType::GNUSparse);
    old.set_path("old").unwrap();
    old.set_mode(0o644);
    old.set_size(4);
    let gnu = old.as_gnu_mut().unwrap();
    gnu.set_real_size(1 << 20);
    gnu.sparse[0].set_offset(4096);
    gnu.sparse[0].set_length(4);
    old.set_cksum();
    let mut map = b"1\n8192\n3\n".to_vec();
    map.resize(512, 0);
    map.extend_from_slice(b"new");
    let tar = Tar::new()
        .header(&old, b"data")
        .pax(&[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", b"new"),
            ("GNU.sparse.realsize", b"1048576"),
        ])
        .file("GNUSparseFile.0/new", &map)
        .file("after", b"a");
    victim.take(tar).unwrap();
    for (name, at, text) in [("old", 4096, b"data".as_slice()), ("new", 8192, b"new")] {
        let bytes = std::fs::read(victim.at(name)).unwrap();
        assert_eq!((bytes.len(), &bytes[at..at + text.len()]), (1 << 20, text), "{name}");
        assert!(victim.at(name).metadata().unwrap().blocks() < 64, "{name} has its hole");
    }
    assert_eq!(std::fs::read(victim.at("after")).unwrap(), b"a");
}

#[test]
fn a_lying_sparse_map_is_refused() {
    for (offset, length) in [(u64::MAX, 4), (1 << 40, 4), (0, 1 << 40)] {
        let mut old = tar::Header::new_gnu();
        old.set_entry_type(EntryType::GNUSparse);
        old.set_path("old").unwrap();
        old.set_size(4);
        let gnu = old.as_gnu_mut().unwrap();
        gnu.set_real_size(1 << 20);
        gnu.sparse[0].set_offset(offset);
        gnu.sparse[0].set_length(length);
        old.set_cksum();
        Victim::new().take(Tar::new().header(&old, b"data")).unwrap_err();
    }
}

#[test]
fn limits_end_a_layer_early() {
    let small = TarLimits { entries: 10, bytes: 1 << 20, depth: 8, ..TarLimits::default() };
    let mut many = Tar::new();
    for n in 0..11 {
        many = many.file(&format!("f{n}"), b"");
    }
    let error = Victim::new().unpack(&many.layer(Packed::Gzip), &small).unwrap_err();
    assert!(matches!(error, LayerError::Unpack(TreeError::Entries { limit: 10 })), "{error:?}");
    assert_eq!(error.kind(), names::Kind::Exhausted);
    let bomb = Tar::new().file("bomb", &vec![0; 2 << 20]).layer(Packed::Gzip);
    assert!(bomb.blob.len() < 100_000);
    Victim::new().unpack(&bomb, &small).unwrap_err();
    let deep = Tar::new().file(&"d/".repeat(9), b"").layer(Packed::Zstd);
    Victim::new().unpack(&deep, &small).unwrap_err();
    let mut id = tar::Header::new_gnu();
    id.set_path("x").unwrap();
    id.set_uid(1 << 32);
    id.set_size(0);
    id.set_cksum();
    Victim::new().take(Tar::new().header(&id, b"")).unwrap_err();
}

#[test]
fn a_bomb_is_told_by_its_ratio() {
    let zeros = std::io::repeat(0).take(64 << 20);
    let mut header = tar::Header::new_gnu();
    header.set_path("bomb").unwrap();
    header.set_size(64 << 20);
    header.set_cksum();
    let tar = std::io::Cursor::new(header.as_bytes().to_vec()).chain(zeros);
    let mut blob = Vec::new();
    zstd::stream::copy_encode(tar, &mut blob, 1).unwrap();
    let expected = Expected { blob: None, diff_id: Digest::of(b"") };
    let victim = Victim::new();
    let source = BufReader::new(blob.as_slice());
    let limits = TarLimits { ratio_from: 1 << 20, ..TarLimits::default() };
    let error = unpack(source, expected, &victim.layer(), &limits).unwrap_err();
    let text = format!("{error:?}");
    assert!(text.contains("times its size"), "{text}");
}

#[test]
fn a_stream_that_is_not_what_was_promised_is_refused() {
    let layer = Tar::new().file("a", b"a").layer(Packed::Gzip);
    let other = Digest::of(b"other");
    let victim = Victim::new();
    let run = |blob, diff_id| {
        unpack(
            layer.blob.as_slice(),
            Expected { blob, diff_id },
            &victim.layer(),
            &TarLimits::default(),
        )
    };
    let wrong = run(Some(other), layer.diff_id).unwrap_err();
    assert!(matches!(wrong, LayerError::Digest { .. }), "{wrong:?}");
    let wrong = run(None, other).unwrap_err();
    assert!(matches!(wrong, LayerError::DiffId { .. }), "{wrong:?}");
}

#[test]
fn directories_keep_their_own_times_and_modes() {
    let victim = Victim::new();
    let tar = Tar::new().dir("d").file("d/a", b"a").file("implied/x", b"x");
    victim.take(tar).unwrap();
    let directory = victim.at("d").metadata().unwrap();
    assert_eq!(
        (directory.mtime(), directory.permissions().mode() & 0o7777),
        (1_600_000_000, 0o755)
    );
}

#[test]
fn a_layer_of_many_entries_takes_time_in_proportion() {
    let run = |count: u32| {
        let mut tar = Tar::new();
        for n in 0..count {
            // Each under a directory of its own, none of which has an entry, and back and forth.
            tar = tar.file(&format!("d{}/{}/{n}", n % 2, n / 8), b"");
        }
        let layer = tar.layer(Packed::Plain);
        let victim = Victim::new();
        let began = std::time::Instant::now();
        victim.unpack(&layer, &TarLimits::default()).unwrap();
        began.elapsed()
    };
    run(500);
    let (small, large) = (run(2_000), run(16_000));
    assert!(large < small * 40, "8 times the entries took {large:?} instead of {small:?}");
}
