//! The goals of the issue, to be run by hand in a release build:
//! `cargo test --release -p image -- --ignored --nocapture speed`.
//! On tmpfs: a disk that has just been emptied is slow for a while, and that would be measured instead.

use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::made::{Layer, Made, Packed, Tar, image, noise};
use super::pulls::{options, request};
use super::server::Server;
use crate::Images;

/// About 413 MB in 8 layers: half large files, half small ones, which compress to a third.
fn layers(packed: Packed) -> Vec<Layer> {
    (0..8)
        .map(|n| {
            let mut tar = Tar::new();
            for file in 0..6 {
                tar = tar.file(&format!("l{n}/large{file}"), &text(4 << 20, n * 100 + file));
            }
            for file in 0..1500 {
                let body = text(17_000, n * 10_000 + file + 50);
                tar = tar.file(&format!("l{n}/d{}/small{file}", file / 50), &body);
            }
            tar.layer(packed)
        })
        .collect()
}

/// Compresses to about a third.
fn text(length: usize, seed: u64) -> Vec<u8> {
    let noise = noise(length / 3 + 16, seed * 7919 + 1);
    noise.iter().flat_map(|b| [*b, b'e', b' ']).take(length).collect()
}

fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split(' ').collect();
    let ticks: u64 = fields[12].parse::<u64>().unwrap() + fields[13].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

async fn measure(what: &str, made: &Made) {
    let server = Server::start().await;
    server.push("speed", "1", made).await;
    let name = server.name("speed:1");
    for round in 0..3 {
        let root = TempDir::new_in("/dev/shm").unwrap();
        let images = Images::open(options(&root)).unwrap();
        images.recovered();
        let (began, used) = (Instant::now(), cpu());
        images.pull(request(&name)).await.unwrap();
        let (took, used) = (began.elapsed(), cpu().saturating_sub(used));
        let began = Instant::now();
        images.remove(&name).await.unwrap();
        let removed = began.elapsed();
        images.wait_swept();
        println!("{what} {round}: pull {took:.2?}, cpu {used:.2?}, remove {removed:.2?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement, for a release build and by hand"]
async fn speed_of_pull_and_remove() {
    for packed in [Packed::Gzip, Packed::Zstd] {
        let made = image(&layers(packed), "");
        let size: usize = made.layers.iter().map(|layer| layer.blob.len()).sum();
        measure(&format!("{packed:?} {} MB", size / 1_000_000), &made).await;
    }
}
