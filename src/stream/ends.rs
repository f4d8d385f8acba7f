//! A client's ends, whatever carries them: SPDY streams or WebSocket channels.

use ::spdy::{RecvStream, SendStream};
use bytes::{BufMut, Bytes, BytesMut};
use tokio::sync::mpsc;

use super::negotiate::Version;
use super::resize::Window;
use super::status::Verdict;
use super::websocket::Channel;

/// Messages taken at once.
const PIECES: usize = 64;

/// The client takes nothing more.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Gone;

/// What the client sends.
#[derive(Debug)]
pub(super) enum Input {
    Spdy(RecvStream),
    Channel(Messages),
}

/// Those of one channel. Who sends them lets go without an end when the client is gone.
#[derive(Debug)]
pub(super) struct Messages {
    from: mpsc::Receiver<Bytes>,
    /// An empty one has come.
    ended: bool,
}

impl Messages {
    /// An empty one is the client's end of the channel.
    pub(super) fn new(from: mpsc::Receiver<Bytes>) -> Self {
        Self { from, ended: false }
    }

    async fn chunks(&mut self, into: &mut Vec<Bytes>, most: usize) -> Result<bool, Gone> {
        if !self.ended && self.from.recv_many(into, most).await == 0 {
            return Err(Gone);
        }
        if into.pop_if(|last| last.is_empty()).is_some() {
            self.ended = true;
        }
        Ok(!into.is_empty())
    }
}

impl Input {
    /// The next bytes; none when the client has ended this direction. Cancel-safe.
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>, Gone> {
        match self {
            Self::Spdy(stream) => stream.chunk().await.map_err(|_| Gone),
            Self::Channel(messages) => {
                let mut one = Vec::with_capacity(1);
                messages.chunks(&mut one, 1).await?;
                Ok(one.pop())
            }
        }
    }

    /// The same with all that has come, into an empty vector; false instead of none.
    pub(super) async fn chunks(&mut self, into: &mut Vec<Bytes>) -> Result<bool, Gone> {
        match self {
            Self::Spdy(stream) => {
                stream.chunks(into).await.map(|length| length > 0).map_err(|_| Gone)
            }
            Self::Channel(messages) => messages.chunks(into, PIECES).await,
        }
    }
}

/// What the client is sent.
#[derive(Debug)]
pub(super) enum Output {
    Spdy(SendStream),
    Channel(Channel),
}

impl Output {
    /// An empty message for data of up to `room` bytes, which is to be appended. The buffer's memory is used again where nobody
    /// else holds it any more.
    pub(super) fn begin(&self, message: &mut BytesMut, room: usize) {
        message.reserve(room + 1);
        if let Self::Channel(channel) = self {
            message.put_u8(channel.mark());
        }
    }

    /// Sends what [`Self::begin`] began.
    pub(super) async fn send(&mut self, message: Bytes) -> Result<(), Gone> {
        match self {
            Self::Spdy(stream) => stream.send(message).await.map_err(|_| Gone),
            Self::Channel(channel) => channel.send(message).await,
        }
    }

    /// Sends all of this.
    pub(super) async fn say(&mut self, words: &[u8]) -> Result<(), Gone> {
        let mut message = BytesMut::new();
        self.begin(&mut message, words.len());
        message.put_slice(words);
        self.send(message.freeze()).await
    }

    /// Ends this direction; ready when the client's connection has taken everything.
    pub(super) async fn finish(self) {
        match self {
            // An error means that the client is gone, and has all that it will ever have.
            Self::Spdy(stream) => drop(stream.finish().await),
            Self::Channel(channel) => drop(channel),
        }
    }

    /// Ends it as something that went wrong.
    pub(super) fn reset(self) {
        match self {
            Self::Spdy(stream) => stream.reset(),
            Self::Channel(channel) => drop(channel),
        }
    }
}

/// What exec and attach have to do with a client.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) version: Version,
    /// Where it is told how the session ended.
    pub(super) error: Output,
    pub(super) stdin: Option<Input>,
    pub(super) stdout: Option<Output>,
    pub(super) stderr: Option<Output>,
    pub(super) resize: Option<Window>,
    /// Directions that carry nothing, and are ended with the rest.
    pub(super) silent: Vec<Output>,
}

impl Client {
    /// Tells it how the session ended, and ends all directions. Versions without a status want to know before the outputs end.
    pub(super) async fn end(mut self, verdict: &Verdict) {
        let words = verdict.words(self.version);
        if !words.is_empty() && self.error.say(words.as_bytes()).await.is_err() {
            return;
        }
        let outputs = [self.stdout, self.stderr].into_iter().flatten();
        let rest = self.silent.into_iter().chain([self.error]);
        futures::future::join_all(outputs.chain(rest).map(Output::finish)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_channel_ends_when_the_client_says_so_and_not_when_it_is_gone() {
        for end in [true, false] {
            let (to, from) = mpsc::channel(3);
            let mut input = Input::Channel(Messages::new(from));
            to.send(Bytes::from_static(b"word")).await.unwrap();
            if end {
                to.send(Bytes::new()).await.unwrap();
            }
            drop(to);
            let mut pieces = Vec::new();
            assert_eq!(input.chunks(&mut pieces).await, Ok(true));
            assert_eq!(pieces.concat(), b"word");
            pieces.clear();
            let last = if end { Ok(false) } else { Err(Gone) };
            assert_eq!(input.chunks(&mut pieces).await, last);
            assert_eq!(input.chunk().await, if end { Ok(None) } else { Err(Gone) });
        }
    }
}
