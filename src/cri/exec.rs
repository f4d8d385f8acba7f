//! Commands in containers.

use cri_proto::cri;
use engine::world::World;

use super::parse::{self, At};
use super::{Answer, MESSAGE_MAX, Services, failed, note};

/// What is left of a message for the two outputs together.
const OUTPUT_MAX: usize = MESSAGE_MAX - 1024;

impl<W: World> Services<W> {
    pub(super) async fn run_command(
        &self,
        request: cri::ExecSyncRequest,
    ) -> Answer<cri::ExecSyncResponse> {
        note("container", &request.container_id);
        let command = parse::command(&At::root("cmd"), &request.cmd)?;
        let timeout = parse::seconds(&At::root("timeout"), request.timeout)?;
        let output = self.engine.exec_sync(&request.container_id, command, timeout).await;
        let output = output.map_err(failed)?;
        let (mut stdout, mut stderr) = (output.stdout, output.stderr);
        stdout.truncate(OUTPUT_MAX);
        stderr.truncate(OUTPUT_MAX - stdout.len());
        Ok(cri::ExecSyncResponse { stdout, stderr, exit_code: output.code })
    }
}
