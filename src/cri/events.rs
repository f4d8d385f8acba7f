//! What happens to containers, as it happens.

use cri_proto::cri;
use engine::bell::{Occurrence, Told};
use engine::world::World;
use futures::StreamExt;
use tokio_stream::wrappers::BroadcastStream;

use super::batch::Batches;
use super::{Answer, Services, reply};

impl<W: World> Services<W> {
    /// Ends when the client does not keep up, so that it lists again, and when the daemon stops.
    pub(super) async fn events(
        &self,
        _: cri::GetEventsRequest,
    ) -> Answer<Batches<cri::ContainerEventResponse>> {
        let services = self.clone();
        let mut stop = self.stop.clone();
        let stopped = async move { drop(stop.wait_for(|stop| *stop).await) };
        let events = BroadcastStream::new(self.engine.listen())
            .take_while(|heard| std::future::ready(heard.is_ok()))
            .filter_map(|heard| std::future::ready(heard.ok()))
            .map(move |event| Ok(services.event(&event)))
            .take_until(Box::pin(stopped));
        Ok(Box::pin(events))
    }

    fn event(&self, event: &Occurrence) -> cri::ContainerEventResponse {
        let sandbox = &event.pod.sandbox;
        let kind = match &event.told {
            Told::Created(_) => cri::ContainerEventType::ContainerCreatedEvent,
            Told::Started(_) => cri::ContainerEventType::ContainerStartedEvent,
            Told::Stopped(_) => cri::ContainerEventType::ContainerStoppedEvent,
            Told::Deleted(_) => cri::ContainerEventType::ContainerDeletedEvent,
        };
        let subject = event.container().map_or(sandbox.id.as_str(), |id| id.as_str());
        cri::ContainerEventResponse {
            container_id: subject.to_owned(),
            container_event_type: kind.into(),
            created_at: event.at.0,
            pod_sandbox_status: Some(reply::sandbox_status(sandbox)),
            containers_statuses: self.container_statuses(&event.pod),
        }
    }
}
