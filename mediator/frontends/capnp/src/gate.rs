//! Bounds on what a client can have outstanding.
//!
//! The protocol's library takes whatever comes: calls that wait, results that the client never
//! releases, replies that it never reads. A `Gate` lies between the library and the socket and looks
//! at every message. While too much waits it does not read on, which a client feels as a socket that
//! takes no more; a client that holds on to more results than it may is disconnected with the reason.

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use capnp::capability::Promise;
use capnp::message::{Builder, HeapAllocator};
use capnp::{Error, ErrorKind};
use capnp_rpc::rpc_capnp::message;
use capnp_rpc::{Connection, FlowController, IncomingMessage, OutgoingMessage, VatNetwork};
use futures_util::io::{AsyncRead, AsyncWrite};

use crate::failure::say;

/// Bounds of one client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest message, in bytes. A program comes in one.
    pub message_bytes: usize,
    /// Calls that may wait for their result; further ones stay unread.
    pub calls: usize,
    /// Bytes of calls that may wait, the last one not counted.
    pub call_bytes: u64,
    /// Bytes of replies that may wait for the client to read.
    pub reply_bytes: u64,
    /// Results that the client may keep without releasing them. One more ends the connection.
    pub kept: usize,
    /// Mappings whose descriptor waits to be fetched.
    pub tokens: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            message_bytes: 17 << 20,
            calls: 256,
            call_bytes: 32 << 20,
            reply_bytes: 4 << 20,
            kept: 4096,
            tokens: 256,
        }
    }
}

/// A question of the client's that is not over.
#[derive(Clone, Copy, Debug)]
struct Question {
    bytes: u64,
    returned: bool,
}

#[derive(Debug)]
struct State {
    limits: Limits,
    /// By the client's own number. Over when the answer was sent and the client released it.
    questions: HashMap<u32, Question>,
    /// Of those, not answered.
    waiting: usize,
    waiting_bytes: u64,
    /// Bytes read from the socket, bytes of replies made, bytes of them written.
    read: u64,
    replied: u64,
    written: u64,
    /// The reader, while the gate is shut.
    reader: Option<Waker>,
}

impl State {
    fn is_open(&self) -> bool {
        self.waiting < self.limits.calls
            && self.waiting_bytes <= self.limits.call_bytes
            && self.replied.saturating_sub(self.written) <= self.limits.reply_bytes
    }

    fn wake(&mut self) {
        if self.is_open()
            && let Some(reader) = self.reader.take()
        {
            reader.wake();
        }
    }

    fn asked(&mut self, id: u32, bytes: u64) -> Result<(), Error> {
        let fresh = Question { bytes, returned: false };
        if let Some(old) = self.questions.insert(id, fresh) {
            self.forget(old);
        }
        self.waiting += 1;
        self.waiting_bytes += bytes;
        if self.questions.len() <= self.limits.kept {
            return Ok(());
        }
        let kept = self.limits.kept;
        let more = format_args!("more than {kept} results are kept; release results you have read");
        Err(say(ErrorKind::Overloaded, "no_room", more))
    }

    fn answered(&mut self, id: u32) {
        if let Some(question) = self.questions.get_mut(&id)
            && !question.returned
        {
            let before = *question;
            question.returned = true;
            self.forget(before);
        }
    }

    fn finished(&mut self, id: u32) {
        if let Some(question) = self.questions.remove(&id) {
            self.forget(question);
        }
    }

    /// Takes a question off the waiting ones, if it is one.
    fn forget(&mut self, question: Question) {
        if !question.returned {
            self.waiting = self.waiting.saturating_sub(1);
            self.waiting_bytes = self.waiting_bytes.saturating_sub(question.bytes);
            self.wake();
        }
    }
}

/// The books of one connection.
#[derive(Clone, Debug)]
pub(crate) struct Gate(Rc<RefCell<State>>);

impl Gate {
    pub(crate) fn new(limits: Limits) -> Gate {
        Gate(Rc::new(RefCell::new(State {
            limits,
            questions: HashMap::new(),
            waiting: 0,
            waiting_bytes: 0,
            read: 0,
            replied: 0,
            written: 0,
            reader: None,
        })))
    }

    /// Waits until the next message may be read.
    async fn open(&self) {
        poll_fn(|cx| {
            let mut state = self.0.borrow_mut();
            if state.is_open() {
                return Poll::Ready(());
            }
            state.reader = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    fn incoming(&self, incoming: &dyn IncomingMessage, bytes: u64) -> Result<(), Error> {
        let body = incoming.get_body()?.get_as::<message::Reader<'_>>()?;
        let mut state = self.0.borrow_mut();
        match body.which() {
            Ok(message::Call(call)) => state.asked(call?.get_question_id(), bytes),
            Ok(message::Bootstrap(bootstrap)) => state.asked(bootstrap?.get_question_id(), bytes),
            Ok(message::Finish(finish)) => {
                state.finished(finish?.get_question_id());
                Ok(())
            }
            // Anything else holds nothing, or is answered by the library.
            _ => Ok(()),
        }
    }

    fn outgoing(&self, outgoing: &dyn OutgoingMessage) {
        let body = outgoing.get_body_as_reader();
        let Ok(body) = body.and_then(|body| body.get_as::<message::Reader<'_>>()) else { return };
        if let Ok(message::Return(Ok(answer))) = body.which() {
            self.0.borrow_mut().answered(answer.get_answer_id());
        }
    }
}

/// A network whose connections go through a gate.
pub(crate) struct Gated<N> {
    pub(crate) inner: N,
    pub(crate) gate: Gate,
}

impl<V: 'static, N: VatNetwork<V>> VatNetwork<V> for Gated<N> {
    fn connect(&mut self, host: V) -> Option<Box<dyn Connection<V>>> {
        let inner = self.inner.connect(host)?;
        Some(Box::new(GatedConnection { inner, gate: self.gate.clone() }))
    }

    fn accept(&mut self) -> Promise<Box<dyn Connection<V>>, Error> {
        let (inner, gate) = (self.inner.accept(), self.gate.clone());
        Promise::from_future(async move {
            let inner = inner.await?;
            Ok(Box::new(GatedConnection { inner, gate }) as Box<dyn Connection<V>>)
        })
    }

    fn drive_until_shutdown(&mut self) -> Promise<(), Error> {
        self.inner.drive_until_shutdown()
    }
}

struct GatedConnection<V: 'static> {
    inner: Box<dyn Connection<V>>,
    gate: Gate,
}

impl<V: 'static> Connection<V> for GatedConnection<V> {
    fn get_peer_vat_id(&self) -> V {
        self.inner.get_peer_vat_id()
    }

    fn new_outgoing_message(&mut self, first_segment_word_size: u32) -> Box<dyn OutgoingMessage> {
        let inner = self.inner.new_outgoing_message(first_segment_word_size);
        Box::new(GatedOutgoing { inner, gate: self.gate.clone() })
    }

    fn receive_incoming_message(&mut self) -> Promise<Option<Box<dyn IncomingMessage>>, Error> {
        // Nothing is read before this is polled.
        let (inner, gate) = (self.inner.receive_incoming_message(), self.gate.clone());
        Promise::from_future(async move {
            gate.open().await;
            let before = gate.0.borrow().read;
            let incoming = inner.await?;
            if let Some(incoming) = &incoming {
                let bytes = gate.0.borrow().read.saturating_sub(before);
                gate.incoming(&**incoming, bytes)?;
            }
            Ok(incoming)
        })
    }

    fn new_stream(&mut self) -> (Box<dyn FlowController>, Promise<(), Error>) {
        self.inner.new_stream()
    }

    fn shutdown(&mut self, result: capnp::Result<()>) -> Promise<(), Error> {
        self.inner.shutdown(result)
    }
}

struct GatedOutgoing {
    inner: Box<dyn OutgoingMessage>,
    gate: Gate,
}

impl OutgoingMessage for GatedOutgoing {
    fn get_body(&mut self) -> capnp::Result<capnp::any_pointer::Builder<'_>> {
        self.inner.get_body()
    }
    fn get_body_as_reader(&self) -> capnp::Result<capnp::any_pointer::Reader<'_>> {
        self.inner.get_body_as_reader()
    }
    fn send(self: Box<Self>) -> (Promise<(), Error>, Rc<Builder<HeapAllocator>>) {
        self.gate.outgoing(&*self.inner);
        let (sent, message) = self.inner.send();
        let words = capnp::serialize::compute_serialized_size_in_words(&message);
        self.gate.0.borrow_mut().replied += words as u64 * 8;
        (sent, message)
    }
    fn take(self: Box<Self>) -> Builder<HeapAllocator> {
        self.inner.take()
    }
    fn size_in_words(&self) -> usize {
        self.inner.size_in_words()
    }
}

/// A stream whose bytes the gate counts.
pub(crate) struct Counted<S> {
    pub(crate) inner: S,
    pub(crate) gate: Gate,
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut [u8],
    ) -> Poll<std::io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_read(cx, into);
        if let Poll::Ready(Ok(n)) = polled {
            self.gate.0.borrow_mut().read += n as u64;
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(cx, from);
        if let Poll::Ready(Ok(n)) = polled {
            let mut state = self.gate.0.borrow_mut();
            state.written += n as u64;
            state.wake();
        }
        polled
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }
    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_close(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(calls: usize, kept: usize) -> Gate {
        Gate::new(Limits { calls, kept, call_bytes: 100, reply_bytes: 100, ..Limits::default() })
    }

    #[test]
    fn it_shuts_at_too_many_calls_and_opens_when_they_return() {
        let gate = gate(3, 100);
        let mut state = gate.0.borrow_mut();
        for id in 0..3 {
            assert!(state.is_open());
            state.asked(id, 1).unwrap();
        }
        assert!(!state.is_open());
        state.answered(1);
        assert!(state.is_open());
        // Answered twice, released and unknown ones count once or not at all.
        state.answered(1);
        state.finished(1);
        state.finished(77);
        assert_eq!((state.waiting, state.questions.len()), (2, 2));
        // A client that releases what it never got back gives the place back too.
        state.finished(0);
        state.finished(2);
        assert_eq!((state.waiting, state.waiting_bytes, state.questions.len()), (0, 0, 0));
    }

    #[test]
    fn it_shuts_at_too_many_bytes_either_way() {
        let gate = gate(100, 100);
        let mut state = gate.0.borrow_mut();
        state.asked(1, 101).unwrap();
        assert!(!state.is_open());
        state.answered(1);
        assert!(state.is_open());
        state.replied = 150;
        assert!(!state.is_open());
        state.written = 50;
        assert!(state.is_open());
    }

    #[test]
    fn a_client_that_keeps_too_much_or_repeats_its_numbers_is_bounded() {
        let gate = gate(1000, 10);
        let mut state = gate.0.borrow_mut();
        for _ in 0..50 {
            state.asked(5, 1).unwrap();
        }
        assert_eq!((state.waiting, state.waiting_bytes), (1, 1));
        for id in 10..19 {
            state.asked(id, 1).unwrap();
            state.answered(id);
        }
        let error = state.asked(99, 1).unwrap_err();
        assert!(error.kind == ErrorKind::Overloaded && error.extra.starts_with("no_room: "));
    }
}
