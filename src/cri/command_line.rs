//! What `ferropod image …` asks.

use std::io::{self, Write};
use std::time::Duration;

use ::image::{Credentials, Image, Reference, Secret};
use cri_proto::cli;
use cri_proto::cli::images_server::Images;
use cri_proto::cli::pull_response::Step;
use engine::world::World;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response};

use super::batch::Batches;
use super::{Answer, Services, Wire, status};

/// How much of an archive travels in one message.
const PIECE: usize = 1 << 20;

/// How often a person sees a bar move.
const GLANCE: Duration = Duration::from_millis(100);

#[tonic::async_trait]
impl<W: World> Images for Services<W> {
    type PullStream = Batches<cli::PullResponse>;

    async fn pull(&self, request: Request<cli::PullRequest>) -> Wire<Self::PullStream> {
        let (steps, stream) = mpsc::channel(4);
        let services = self.clone();
        tokio::spawn(async move { services.pull_in_steps(request.into_inner(), steps).await });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn list(&self, request: Request<cli::ListRequest>) -> Wire<cli::ListResponse> {
        let filter = request.into_inner().filter;
        let images = match filter.as_str() {
            "" => self.images.list(),
            name => self.images.find(name).into_iter().collect(),
        };
        let images = images.iter().map(|image| reply(image)).collect();
        Ok(Response::new(cli::ListResponse { images }))
    }

    async fn remove(&self, request: Request<cli::RemoveRequest>) -> Wire<cli::RemoveResponse> {
        let names = request.into_inner().references;
        let (removed, absent): (Vec<_>, Vec<_>) =
            names.into_iter().partition(|name| self.images.find(name).is_some());
        for name in &removed {
            let done = self.images.remove(name).await;
            done.map_err(|error| status::of(error.kind(), &error))?;
        }
        Ok(Response::new(cli::RemoveResponse { removed, absent }))
    }

    async fn import(&self, request: Request<cli::ImportRequest>) -> Wire<cli::ImportResponse> {
        let imported = self.images.import(request.into_inner().path.into()).await;
        let imported = imported.map_err(|error| status::of(error.kind(), &error))?;
        let found = imported.iter().filter_map(|one| self.images.find(one.id.as_str()));
        let images = found.map(|image| reply(&image)).collect();
        Ok(Response::new(cli::ImportResponse { images }))
    }

    type ExportStream = Batches<cli::ExportResponse>;

    async fn export(&self, request: Request<cli::ExportRequest>) -> Wire<Self::ExportStream> {
        let references = request.into_inner().references;
        let (pieces, stream) = mpsc::channel(4);
        let images = self.images.clone();
        tokio::spawn(async move {
            let done = images.export(references, Pieces { to: pieces.clone() }).await;
            if let Err(error) = done {
                // An error means that nobody waits for it any more.
                drop(pieces.send(Err(status::of(error.kind(), &error))).await);
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}

/// What is written is sent. The writer runs on a thread that may block.
#[derive(Debug)]
struct Pieces {
    to: mpsc::Sender<Answer<cli::ExportResponse>>,
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = bytes.get(..PIECE).unwrap_or(bytes);
        let message = cli::ExportResponse { data: piece.to_vec() };
        let sent = self.to.blocking_send(Ok(message));
        sent.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<W: World> Services<W> {
    /// Ends when the image is here, or when the client has gone.
    async fn pull_in_steps(
        &self,
        request: cli::PullRequest,
        steps: mpsc::Sender<Answer<cli::PullResponse>>,
    ) {
        let reference = request.reference;
        let credentials = request.credentials.map(credentials).unwrap_or_default();
        let mut pull = std::pin::pin!(self.bring(reference.clone(), credentials));
        let mut glance = tokio::time::interval(GLANCE);
        // The pull is polled on and on by reference; a tick or a hang-up that is not taken comes again.
        let pulled = loop {
            tokio::select! {
                pulled = &mut pull => break pulled,
                () = steps.closed() => return,
                _ = glance.tick() => {
                    // A client that is slow misses a step, not the pull its time.
                    drop(self.step(&reference).map(|step| steps.try_send(Ok(step))));
                }
            }
        };
        let last = pulled.and_then(|id| {
            let image = self.images.find(id.as_str());
            image.map(|image| Step::Image(reply(&image))).ok_or_else(|| status::vanished(&id))
        });
        // An error means that nobody waits for it any more.
        drop(steps.send(last.map(|step| cli::PullResponse { step: Some(step) })).await);
    }

    fn step(&self, reference: &str) -> Option<cli::PullResponse> {
        let full = reference.parse::<Reference>().ok()?.to_string();
        let pulls = self.images.progress();
        let pull = pulls.into_iter().find(|pull| [reference, &full].contains(&&*pull.reference))?;
        let progress = cli::Progress {
            layers_done: pull.layers_done,
            layers_total: pull.layers_total,
            bytes_done: pull.bytes_done,
            bytes_total: pull.bytes_total,
        };
        Some(cli::PullResponse { step: Some(Step::Progress(progress)) })
    }
}

fn credentials(wire: cli::Credentials) -> Credentials {
    let secret = Secret::Basic { user: wire.username, password: wire.password };
    Credentials { secret, server_address: String::new() }
}

fn reply(image: &Image) -> cli::Image {
    cli::Image {
        id: image.id.to_string(),
        tags: image.tags.clone(),
        digests: image.digests.clone(),
        size: image.size,
        pinned: image.pinned,
    }
}
