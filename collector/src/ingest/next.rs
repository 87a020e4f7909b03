//! What the next release says to wrappers and no release knows yet: a body, and fields in all that there is. Built for tests alone
//! (`tests/next`), which hold wrappers to passing it over.

use shimtap_proto::link::{FromCollector, from_collector::Body};

/// A field that none of our messages has.
const FIELD: u32 = 1000;

/// A message of a kind that is new.
pub(super) fn body() -> FromCollector {
    FromCollector::default()
}

/// The same message with a field more, beside its body and in it.
pub(super) fn fields(message: &FromCollector) -> FromCollector {
    let mut message = message.clone();
    let said = || b"of the next release".to_vec();
    message.special_fields.mut_unknown_fields().add_length_delimited(FIELD, said());
    let inner = match &mut message.body {
        Some(Body::Welcome(welcome)) => {
            if let Some(settings) = welcome.settings.as_mut() {
                settings.special_fields.mut_unknown_fields().add_length_delimited(FIELD, said());
            }
            &mut welcome.special_fields
        }
        Some(Body::Ready(ready)) => &mut ready.special_fields,
        Some(Body::Ack(ack)) => &mut ack.special_fields,
        Some(Body::Settings(settings)) => &mut settings.special_fields,
        _ => return message,
    };
    inner.mut_unknown_fields().add_length_delimited(FIELD, said());
    message
}
