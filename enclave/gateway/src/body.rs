//! Bodies: a request's is read whole, within limits of size, time and memory; an answer's goes out in pieces and is watched until it is gone.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, timeout_at};

use crate::activity::UnderWay;
use crate::budget::{Budget, Held};
use crate::limits::Limits;

/// Bytes of one piece of an answer. Small, so that what is not sent is still counted here and not in the connection's buffers; and such that
/// with the nine bytes that HTTP/2 puts before it, it fills one record of TLS.
pub const PIECE: usize = (16 << 10) - 9;

/// Why a body was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// More bytes than the route takes; the number that was announced or seen.
    Large(usize),
    /// It came too slowly.
    Late,
    /// There is no memory for it now.
    Room,
    /// The peer broke off, or sent what is no body.
    Broken,
}

/// Reads a body of at most `limit` bytes. What it takes of `budget` is held for as long as the second value lives.
///
/// # Errors
/// [`Refusal`]; then the rest of the body was not read.
pub async fn read<B>(body: B, limit: usize, limits: &Limits, budget: &Budget) -> Result<(Bytes, Held), Refusal>
where
    B: Body<Data = Bytes> + Unpin,
{
    let mut body = body;
    let mut held = budget.none();
    let announced = body.size_hint();
    if announced.lower() > limit as u64 {
        return Err(Refusal::Large(usize::try_from(announced.lower()).unwrap_or(usize::MAX)));
    }
    let start = Instant::now();
    let mut bytes = BytesMut::new();
    if let Some(exact) = announced.exact() {
        // At most `limit`.
        let exact = exact as usize;
        if !held.take(exact) {
            return Err(Refusal::Room);
        }
        bytes.reserve(exact);
    }
    loop {
        let deadline = start + limits.transfer(bytes.len());
        let frame = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context));
        let Ok(frame) = timeout_at(deadline, frame).await else { return Err(Refusal::Late) };
        let Some(frame) = frame else { break };
        let Ok(data) = frame.map_err(|_| Refusal::Broken)?.into_data() else { continue };
        let length = bytes.len().saturating_add(data.len());
        if length > limit {
            return Err(Refusal::Large(length));
        }
        if length > held.bytes() && !held.take((length - held.bytes()).max(PIECE)) {
            return Err(Refusal::Room);
        }
        bytes.extend_from_slice(&data);
    }
    Ok((bytes.freeze(), held))
}

/// The body of an answer. As long as it lives, its request is under way.
#[derive(Debug)]
pub struct Payload {
    bytes: Bytes,
    _under_way: Option<UnderWay>,
}

impl Payload {
    /// These bytes, of this request.
    pub fn new(bytes: Bytes, under_way: Option<UnderWay>) -> Self {
        Payload { bytes, _under_way: under_way }
    }
}

impl Body for Payload {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.bytes.is_empty() {
            return Poll::Ready(None);
        }
        let length = self.bytes.len().min(PIECE);
        Poll::Ready(Some(Ok(Frame::data(self.bytes.split_to(length)))))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::{Sleep, sleep};

    use super::*;

    /// A body that gives a piece of so many bytes after each pause.
    struct Dripping {
        pieces: Vec<usize>,
        pause: Duration,
        announced: SizeHint,
        sleep: Option<Pin<Box<Sleep>>>,
    }

    impl Body for Dripping {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            let pause = self.pause;
            let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep(pause)));
            std::task::ready!(sleep.as_mut().poll(context));
            self.sleep = None;
            Poll::Ready(self.pieces.pop().map(|length| Ok(Frame::data(vec![7; length].into()))))
        }

        fn size_hint(&self) -> SizeHint {
            self.announced
        }
    }

    fn dripping(pieces: &[usize], pause: u64, announced: Option<u64>) -> Dripping {
        let announced = announced.map_or_else(SizeHint::new, SizeHint::with_exact);
        Dripping { pieces: pieces.to_vec(), pause: Duration::from_secs(pause), announced, sleep: None }
    }

    fn run(body: Dripping, limit: usize, budget: &Budget) -> Result<(Bytes, Held), Refusal> {
        let limits = Limits { patience: Duration::from_secs(10), rate: 100, ..Limits::default() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(read(body, limit, &limits, budget))
    }

    #[test]
    fn a_body_within_its_limits_is_read_and_paid_for() {
        let budget = Budget::new(100_000);
        let (bytes, held) = run(dripping(&[100; 5], 1, Some(500)), 500, &budget).unwrap();
        assert_eq!((bytes.len(), held.bytes(), budget.left()), (500, 500, 99_500));
        drop(held);
        let (bytes, held) = run(dripping(&[100; 5], 1, None), 500, &budget).unwrap();
        assert_eq!((bytes.len(), held.bytes()), (500, PIECE));
        drop(held);
        assert_eq!(budget.left(), 100_000);
    }

    #[test]
    fn what_is_too_large_is_refused_before_and_while_it_is_read() {
        let budget = Budget::new(100_000);
        assert_eq!(run(dripping(&[], 0, Some(501)), 500, &budget).unwrap_err(), Refusal::Large(501));
        assert_eq!(run(dripping(&[300, 300], 0, None), 500, &budget).unwrap_err(), Refusal::Large(600));
        assert_eq!(budget.left(), 100_000);
    }

    #[test]
    fn what_comes_too_slowly_is_refused() {
        let budget = Budget::new(100_000);
        // 100 bytes a second and ten seconds: fast enough for ever.
        assert!(run(dripping(&[100; 50], 1, None), 5000, &budget).is_ok());
        assert_eq!(run(dripping(&[50; 50], 1, None), 5000, &budget).unwrap_err(), Refusal::Late);
        assert_eq!(run(dripping(&[50], 11, Some(50)), 5000, &budget).unwrap_err(), Refusal::Late);
    }

    #[test]
    fn there_is_room_for_so_many_bodies() {
        let budget = Budget::new(1000);
        assert_eq!(run(dripping(&[], 0, Some(1001)), 5000, &budget).unwrap_err(), Refusal::Room);
        assert_eq!(run(dripping(&[10], 0, None), 5000, &budget).unwrap_err(), Refusal::Room);
        assert!(run(dripping(&[10], 0, Some(10)), 5000, &budget).is_ok());
    }

    #[test]
    fn an_answer_goes_out_whole_and_in_pieces() {
        let bytes: Bytes = (0..100_000u32).map(|n| n as u8).collect::<Vec<_>>().into();
        let mut payload = Payload::new(bytes.clone(), None);
        assert_eq!(payload.size_hint().exact(), Some(100_000));
        let mut seen = Vec::new();
        let mut context = Context::from_waker(std::task::Waker::noop());
        while let Poll::Ready(Some(Ok(frame))) = Pin::new(&mut payload).poll_frame(&mut context) {
            let data = frame.into_data().unwrap();
            assert!(data.len() <= PIECE);
            seen.extend_from_slice(&data);
        }
        assert_eq!(seen, bytes);
        assert!(payload.is_end_stream());
    }
}
