//! To which heads of the journal a message leads.

use super::*;
use crate::event::Store;

fn all_to(store: Store) -> Arc<Rules> {
    Arc::new(Rules::new(vec![Rule { line: 1, store: Some(store), ..Rule::default() }]))
}

/// Rules want it elsewhere, and it may not be moved yet.
#[tokio::test]
async fn output_leads_to_the_head_that_its_stream_stays_in_and_an_announcement_where_rules_have_it() {
    let (ingest, mut exit, sender) = ruled();
    sender.send_replace(all_to(Store::Disk));
    let mut now = session(&ingest, 1);
    let message = |body| link::FromWrapper { body: Some(body), ..Default::default() };
    let output = message(Up::Data(link::Data { handle: 3, ..Default::default() }));
    let announcement = message(Up::Open(open(1)));
    let leads =
        |now: &Session, message| [Store::Memory, Store::Disk].map(|head| now.leads_to(&[head], message));
    let (memory, disk) = ([true, false], [false, true]);
    assert_eq!((leads(&now, &announcement), leads(&now, &output)), (disk, [false, false]));
    say(&mut now, Up::Open(open(1))).await;
    write(&mut now, 3, 0, b"line\n").await;
    assert_eq!(leads(&now, &output), disk);
    sender.send_replace(all_to(Store::Memory));
    now.judge_again();
    assert_eq!((leads(&now, &announcement), leads(&now, &output)), (memory, disk));
    exit.try_recv().expect("a line").batch.done();
    assert_eq!(leads(&now, &output), memory);
}
