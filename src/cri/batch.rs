//! Lists in batches, for nodes whose list outgrows one message: each item exactly once, then the end.

use std::pin::Pin;

use prost::Message;
use tokio_stream::Stream;
use tonic::Status;

/// What a streaming call answers with.
pub(super) type Batches<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Far below a message's bound, and far above what an item takes.
const BATCH: usize = 1 << 20;

/// Puts the items into as few messages as fit.
pub(super) fn batches<T, M>(items: Vec<T>, message: fn(Vec<T>) -> M) -> Batches<M>
where
    T: Message + 'static,
    M: Send + 'static,
{
    let messages = split(items).into_iter().map(message).map(Ok).collect::<Vec<_>>();
    Box::pin(tokio_stream::iter(messages))
}

fn split<T: Message>(items: Vec<T>) -> Vec<Vec<T>> {
    let mut batches: Vec<Vec<T>> = Vec::new();
    let mut room = 0;
    for item in items {
        let size = item.encoded_len();
        match batches.last_mut() {
            Some(batch) if size <= room => {
                room -= size;
                batch.push(item);
            }
            _ => {
                room = BATCH.saturating_sub(size);
                batches.push(vec![item]);
            }
        }
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;
    use cri_proto::cri::{PodSandbox, StreamPodSandboxesResponse};
    use tokio_stream::StreamExt;

    fn sandbox(id: usize, size: usize) -> PodSandbox {
        PodSandbox { id: id.to_string(), runtime_handler: "x".repeat(size), ..Default::default() }
    }

    #[tokio::test]
    async fn a_list_above_a_messages_bound_arrives_whole_in_small_messages() {
        let items: Vec<_> = (0..20_000).map(|id| sandbox(id, 1000)).collect();
        let whole = StreamPodSandboxesResponse { pod_sandboxes: items.clone() };
        assert!(whole.encoded_len() > super::super::MESSAGE_MAX);
        let message = |pod_sandboxes| StreamPodSandboxesResponse { pod_sandboxes };
        let mut stream = batches(items.clone(), message);
        let mut got = Vec::new();
        while let Some(batch) = stream.next().await {
            let batch = batch.unwrap();
            assert!(batch.encoded_len() < 2 * BATCH);
            got.extend(batch.pod_sandboxes);
        }
        assert_eq!(got, items);
    }

    #[test]
    fn an_item_larger_than_a_batch_travels_alone() {
        let batches = split(vec![sandbox(0, 10), sandbox(1, 2 * BATCH), sandbox(2, 10)]);
        assert_eq!(batches.iter().map(Vec::len).collect::<Vec<_>>(), [1, 1, 1]);
        assert!(split(Vec::<PodSandbox>::new()).is_empty());
    }
}
