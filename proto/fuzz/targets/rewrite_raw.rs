//! Raw bytes against `invariants::rewrite` and `invariants::mended`, also behind a header that fits them.

#![no_main]

use libfuzzer_sys::fuzz_target;
use shimtap_proto::ttrpc::rewrite::Edit;
use shimtap_proto::ttrpc::{Header, Kind};

fuzz_target!(|bytes: &[u8]| {
    let edits = [Edit { field: 6, new: b"/run/shimtap-shim/c/d/c1/1" }, Edit { field: 7, new: b"" }];
    shimtap_proto_fuzz::rewrite(bytes, &edits);
    for kind in [Kind::Request, Kind::Response] {
        let length = u32::try_from(bytes.len()).unwrap();
        let header = Header { length, stream_id: 1, kind, flags: 0 }.encode();
        let frame = [&header[..], bytes].concat();
        shimtap_proto_fuzz::rewrite(&frame, &edits);
        shimtap_proto_fuzz::mended(&frame);
    }
});
