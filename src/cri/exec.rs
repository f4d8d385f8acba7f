//! Commands in containers, and what is streamed: a URL is all that the streaming calls answer.

use cri_proto::cri;
use engine::world::{Ends, World};

use super::parse::{self, At};
use super::{Answer, MESSAGE_MAX, Services, failed, note, status};
use crate::stream::Ask;

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

    pub(super) async fn stream_command(
        &self,
        request: cri::ExecRequest,
    ) -> Answer<cri::ExecResponse> {
        note("container", &request.container_id);
        let command = parse::command(&At::root("cmd"), &request.cmd)?;
        let cri::ExecRequest { tty, stdin, stdout, stderr, .. } = request;
        let ends = parse::ends(Ends { stdin, stdout, stderr, tty })?;
        let container = self.engine.streamable(&request.container_id).map_err(failed)?;
        let url = self.url(Ask::Exec { container, command, ends })?;
        Ok(cri::ExecResponse { url })
    }

    pub(super) async fn stream_container(
        &self,
        request: cri::AttachRequest,
    ) -> Answer<cri::AttachResponse> {
        note("container", &request.container_id);
        let cri::AttachRequest { tty, stdin, stdout, stderr, .. } = request;
        let ends = parse::ends(Ends { stdin, stdout, stderr, tty })?;
        let container = self.engine.streamable(&request.container_id).map_err(failed)?;
        let url = self.url(Ask::Attach { container, ends })?;
        Ok(cri::AttachResponse { url })
    }

    pub(super) async fn stream_ports(
        &self,
        request: cri::PortForwardRequest,
    ) -> Answer<cri::PortForwardResponse> {
        note("sandbox", &request.pod_sandbox_id);
        let ports = parse::forwarded(&At::root("port"), &request.port)?;
        let sandbox = self.engine.forwardable(&request.pod_sandbox_id).map_err(failed)?;
        let url = self.url(Ask::Forward { sandbox, ports })?;
        Ok(cri::PortForwardResponse { url })
    }

    fn url(&self, ask: Ask) -> Answer<String> {
        self.urls.give(ask).map_err(|error| status::of(error.kind(), &error))
    }
}
