//! What a client is told that is not served.

use capnp::message::Builder;
use capnp_rpc::rpc_capnp::{exception, message};

/// The bytes that end a connection with a reason which the client's library can show. `busy`: trying
/// again later may help.
#[must_use]
pub fn refusal(reason: &str, busy: bool) -> Vec<u8> {
    let mut builder = Builder::new_default();
    let mut abort = builder.init_root::<message::Builder<'_>>().init_abort();
    abort.set_reason(reason);
    abort.set_type(if busy { exception::Type::Overloaded } else { exception::Type::Failed });
    capnp::serialize::write_message_to_words(&builder)
}
