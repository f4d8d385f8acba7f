//! Pull, unpack and removal of a large image.

use anyhow::Result;
use cri_proto::cri::ImageSpec;

use super::{Bench, timed};
use crate::process::cpu_seconds;

pub(super) async fn measure(bench: &mut Bench, big: &str) -> Result<()> {
    for (tag, time, cpu) in
        [("gzip", "pull_gzip", "pull_gzip_cpu"), ("zstd", "pull_zstd", "pull_zstd_cpu")]
    {
        let image = ImageSpec { image: format!("{big}:{tag}"), ..Default::default() };
        bench.client.remove_image(&image).await?;
        for _ in 0..if bench.quick { 1 } else { 5 } {
            let before = cpu_seconds(&bench.pids);
            let (_, took) = timed(bench.client.pull(&image)).await?;
            bench.figures.time(time, took);
            if !bench.pids.is_empty() {
                bench.figures.value(cpu, cpu_seconds(&bench.pids) - before);
            }
            let ((), took) = timed(bench.client.remove_image(&image)).await?;
            bench.figures.time("remove_image", took);
        }
    }
    Ok(())
}
