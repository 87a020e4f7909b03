//! What dashboards ask for is answered: by the scrape configurations that are shipped a real Prometheus has each container once,
//! for a container in a VM as for one of runc, and the usual sums are the truth; and every expression of the dashboards that are
//! shipped has data and every alert that is shipped fires, of a real collector with real containers and real faults.
//!
//! The kubelet is a page, and the Kata pods are stand-ins behind the wrapper. Needs `prometheus`; `./dev test` leaves these
//! tests out, and says so, where that is not installed.

mod alike;
mod boards;
mod fires;
mod kubelet;
mod network;
mod panels;
mod pods;
mod rates;
mod scrape;

use shimtap_tests::rig::Version;

#[test]
fn every_alert_that_is_shipped_is_caused() -> anyhow::Result<()> {
    fires::no_alert_is_left_out()
}

/// One containerd is enough: which one it is makes no difference to Prometheus. In a module of its own, so that `./dev test`
/// can leave it out where the distribution's is not wanted.
mod packaged {
    use super::{Version, alike, fires, panels, rates};

    #[test]
    #[ignore = "needs root, containerd and prometheus: `sudo ./dev test` runs it where these are installed"]
    fn prometheus_has_each_container_once_by_each_shipped_configuration() -> anyhow::Result<()> {
        alike::each_container_once_by_each_shipped_configuration(Version::Packaged)
    }

    #[test]
    #[ignore = "needs root, containerd and prometheus: `sudo ./dev test` runs it where these are installed"]
    fn prometheus_answers_for_a_vm_as_for_runc_while_all_of_them_work() -> anyhow::Result<()> {
        rates::the_usual_queries_answer_for_each_pod(Version::Packaged)
    }

    #[test]
    #[ignore = "needs root, containerd and prometheus: `sudo ./dev test` runs it where these are installed"]
    fn prometheus_has_data_for_every_panel_and_fires_what_it_should() -> anyhow::Result<()> {
        panels::every_panel_has_data(Version::Packaged)
    }

    #[test]
    #[ignore = "needs root, containerd and prometheus: `sudo ./dev test` runs it where these are installed"]
    fn prometheus_fires_what_vms_disks_and_mute_shims_cause() -> anyhow::Result<()> {
        fires::what_vms_disks_and_mute_shims_cause(Version::Packaged)
    }
}
