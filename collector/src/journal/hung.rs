//! Says that the disk under a head of the journal hangs. Its writer cannot: it hangs with the disk, and so does all else that is
//! done there now and then.

use std::{convert::Infallible, time::Duration};

use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use super::JournalThread;

/// How often writers are looked at.
const LOOK: Duration = Duration::from_secs(2);

/// Looks at these writers for ever.
pub async fn say_what_hangs(writers: &[JournalThread]) -> Infallible {
    let mut hanging: Vec<Option<Instant>> = vec![None; writers.len()];
    loop {
        sleep(LOOK).await;
        for (writer, hung) in writers.iter().zip(&mut hanging) {
            let (hangs, dir) = (writer.hangs(), writer.dir().display());
            match (*hung, hangs) {
                (None, Some(since)) => {
                    let seconds = since.elapsed().as_secs();
                    warn!(
                        %dir, seconds,
                        "a write of the journal does not come back; holding back acknowledgements: the disk under dir hangs, see \
                         the kernel's log"
                    );
                }
                (Some(since), None) => {
                    let seconds = since.elapsed().as_secs();
                    info!(%dir, seconds, "the journal's disk answers again");
                }
                _ => {}
            }
            *hung = hangs;
        }
    }
}
