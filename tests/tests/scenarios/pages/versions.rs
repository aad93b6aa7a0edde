//! Versions of the appliance by their pages: a release that is imported, a roll-out that a site cannot take, and what became of it.

use super::{Eyes, WIDTHS, gateway_of, set_up_by_browser};
use anyhow::{Result, ensure};
use lab::appliance::{appliance, release};
use lab::world::{EdgeOptions, World};

#[test]
fn a_release_is_imported_and_rolled_out_in_a_real_browser() -> Result<()> {
    let world = World::new()?;
    let (bundle, key) = release(&world)?;
    let own = format!("releases = {{ keys = [\"{}\"] }}", key.hex());
    let (gateway, pages) = gateway_of(&world, &own, "")?;
    let Some(mut eyes) = Eyes::open(pages)? else { return Ok(()) };
    set_up_by_browser(&mut eyes, &gateway)?;
    eyes.goto("/versions")?;
    eyes.browser.wait_text("No site has said which system it runs")?;
    eyes.look("versions-none", "en", WIDTHS[0])?;

    let mut edge = world.edge("branch-07", EdgeOptions { extra: appliance(&world)?, ..EdgeOptions::default() })?;
    edge.enrol(&gateway.token("branch-07")?)?;
    edge.start()?;
    eyes.browser.wait_text("branch-07")?;

    // What is no release is refused by what the page says, and the file of one becomes a job.
    let other = world.path().join("other.sluice-release");
    std::fs::write(&other, [7; 4096])?;
    eyes.browser.choose_file("#bundle", &other)?;
    eyes.press("Import")?;
    eyes.browser.wait("what became of it", "location.pathname.startsWith('/jobs/') || document.querySelector('form[data-upload]').innerText.includes('release')")?;
    if eyes.browser.url()?.contains("/jobs/") {
        eyes.browser.wait("that it failed", "document.body.innerText.match(/failed/i)")?;
    }
    let _refused = eyes.browser.console()?;
    eyes.goto("/versions")?;
    eyes.browser.choose_file("#bundle", &bundle)?;
    eyes.press("Import")?;
    eyes.browser.wait("the job's page", "location.pathname.startsWith('/jobs/')")?;
    eyes.browser.wait("that it is done", "document.body.innerText.match(/done|finished/i)")?;
    eyes.goto("/versions")?;
    eyes.browser.wait("the release", "document.querySelector('#rollout-release')?.innerText.includes('2.0')")?;
    eyes.look_at_all(&[("versions", "/versions".into())])?;

    // Nobody trusts its maker there: the trial fails before it begins, and the roll-out stops by itself.
    eyes.goto("/versions")?;
    eyes.fill("#rollout-soak", "0")?;
    eyes.fill("#rollout-reason", "the spring release")?;
    eyes.press("Begin")?;
    eyes.browser.wait("the roll-out", "document.body.innerText.includes('Roll-out 1')")?;
    eyes.browser.wait("that it stopped", "document.body.innerText.includes('Stopped at branch-07')")?;
    eyes.look_at_all(&[
        ("versions-stopped", "/versions".into()),
        ("rollout", "/rollouts/1".into()),
        ("site-version", "/sites/bank/branch-07".into()),
    ])?;
    eyes.look_unfolded("rollout-unfolded", "/rollouts/1")?;
    // It is ended by somebody who says why.
    eyes.goto("/rollouts/1")?;
    eyes.press("Cancel the roll-out")?;
    eyes.fill("#cancel-reason", "another key is needed there")?;
    eyes.click("#do-cancel button[type=submit]")?;
    eyes.browser.wait("that it is over", "!document.querySelector('#do-cancel')")?;
    let said = gateway.run("rollout", &["show", "1"])?;
    ensure!(said.contains("cancelled"), "{said}");
    eyes.content()
}
