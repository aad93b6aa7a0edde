//! What people see and steer, in a real Chromium: from the first account to a line that is paused by somebody who is told what it costs.
//!
//! Each page is looked at in both languages, at a desk's width and at a telephone's: its console is silent, axe finds no fault, nothing is wider than the screen. The
//! screenshots lie in `target/screenshots`, for people to look at.

mod exports;
mod versions;

use anyhow::{Context, Result, ensure};
use lab::browser::{Browser, missing};
use lab::volumes::Sample;
use lab::world::{Edge, EdgeOptions, Gateway, GatewayOptions, World, free_tcp};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const PASSWORD: &str = "the river is high tonight";
const WIDTHS: [u32; 2] = [1440, 390];
const LANGUAGES: [&str; 2] = ["en", "zh"];
/// How long anything on a page may take on a loaded machine. Only failures wait this long.
const SOON: Duration = Duration::from_secs(60);

/// axe-core's script, which `tests/run` has fetched; `None`: it is not there.
fn axe() -> Option<String> {
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target"), PathBuf::from);
    std::fs::read_to_string(target.join("axe/axe.min.js")).ok()
}

fn screenshots() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target"), PathBuf::from);
    target.join("screenshots")
}

/// A browser and what its pages are judged by.
struct Eyes {
    browser: Browser,
    axe: String,
    origin: String,
    looked: usize,
    /// What was found wrong so far.
    faults: Vec<String>,
}

impl Eyes {
    /// `None`: this machine cannot show pages, and says so.
    fn open(address: SocketAddr) -> Result<Option<Eyes>> {
        let Some(axe) = axe() else {
            println!("skipped: axe-core is not there (`tests/run` fetches it)");
            return Ok(None);
        };
        if let Some(why) = missing() {
            println!("skipped: {why}");
            return Ok(None);
        }
        let browser = Browser::start()?;
        browser.width(WIDTHS[0])?;
        Ok(Some(Eyes { browser, axe, origin: format!("http://{address}"), looked: 0, faults: Vec::new() }))
    }

    fn goto(&self, path: &str) -> Result<()> {
        Ok(self.browser.goto(&format!("{}{path}", self.origin))?)
    }

    fn click(&self, selector: &str) -> Result<()> {
        self.browser
            .click(selector)
            .with_context(|| format!("clicking {selector} at {}", self.browser.url().unwrap_or_default()))
    }

    fn fill(&self, selector: &str, text: &str) -> Result<()> {
        self.browser
            .fill(selector, text)
            .with_context(|| format!("filling {selector} at {}", self.browser.url().unwrap_or_default()))
    }

    /// Presses a button by what it says.
    fn press(&self, says: &str) -> Result<()> {
        let script = format!(
            "const b = [...document.querySelectorAll('button, a.button, summary')].find((b) => b.innerText.trim().startsWith({says:?}) && b.offsetParent !== null); if (!b) return false; b.scrollIntoView(); b.click(); return true"
        );
        let pressed = self.browser.run(&script)?;
        ensure!(pressed == true, "there is no button {says:?} at {}: {}", self.browser.url()?, self.browser.text()?);
        Ok(())
    }

    /// Looks at the page that is shown: a picture, and what is wrong with it.
    fn look(&mut self, name: &str, language: &str, width: u32) -> Result<()> {
        let browser = &self.browser;
        browser.screenshot(&screenshots().join(format!("{name}-{language}-{width}.png")))?;
        let mut faults = browser.console()?;
        faults.extend(browser.faults(&self.axe)?);
        let wide = browser.run("return document.documentElement.scrollWidth - innerWidth")?.as_i64().unwrap_or(0);
        if wide > 0 {
            faults.push(format!("it is {wide} px wider than the screen"));
        }
        let lang = browser.run("return document.documentElement.lang")?;
        let wanted = if language == "zh" { "zh-Hans" } else { "en" };
        if lang != wanted {
            faults.push(format!("it says that its language is {lang}"));
        }
        self.looked += 1;
        let found = faults.into_iter().map(|fault| format!("{name} ({language}, {width} px): {fault}"));
        self.faults.extend(found);
        Ok(())
    }

    /// Looks at pages in both languages at both widths, in the light; at the first width in the dark too.
    fn look_at_all(&mut self, pages: &[(&str, String)]) -> Result<()> {
        for language in LANGUAGES {
            self.goto(&format!("/language/{language}?back=/"))?;
            for width in WIDTHS {
                self.browser.width(width)?;
                for (name, path) in pages {
                    self.goto(path)?;
                    self.look(name, language, width)?;
                }
            }
        }
        self.browser.scheme("dark")?;
        self.browser.width(WIDTHS[0])?;
        for (name, path) in pages {
            self.goto(path)?;
            self.look(&format!("{name}-dark"), "zh", WIDTHS[0])?;
        }
        self.browser.scheme("light")?;
        self.goto("/language/en?back=/")?;
        Ok(())
    }

    /// Looks at a page with all that can be unfolded, in both languages at both widths.
    fn look_unfolded(&mut self, name: &str, path: &str) -> Result<()> {
        for language in LANGUAGES {
            self.goto(&format!("/language/{language}?back=/"))?;
            for width in WIDTHS {
                self.browser.width(width)?;
                self.goto(path)?;
                // Until it is laid out: a picture is as high as the page was when it was drawn last.
                self.browser.run_async("const done = arguments[arguments.length - 1]; document.querySelectorAll('main details').forEach((d) => { d.open = true; }); requestAnimationFrame(() => requestAnimationFrame(() => done(true)))")?;
                self.look(name, language, width)?;
            }
        }
        self.browser.width(WIDTHS[0])?;
        self.goto("/language/en?back=/")
    }

    /// Nothing was found wrong.
    fn content(&self) -> Result<()> {
        ensure!(self.faults.is_empty(), "{} faults:\n{}", self.faults.len(), self.faults.join("\n"));
        Ok(())
    }
}

fn gateway_with_pages(world: &World) -> Result<(Gateway, SocketAddr)> {
    gateway_with(world, "")
}

/// A gateway whose pages have these lines more under `[web]`, and what follows it.
fn gateway_with(world: &World, more: &str) -> Result<(Gateway, SocketAddr)> {
    gateway_of(world, "", more)
}

/// The same, with lines of its own configuration as well.
fn gateway_of(world: &World, own: &str, more: &str) -> Result<(Gateway, SocketAddr)> {
    let pages = free_tcp()?;
    let targets = world.path().join("targets");
    std::fs::create_dir_all(&targets)?;
    let web = format!("listen = \"{pages}\"\ntls = \"off\"\ntargets = [{targets:?}]\n{more}");
    let extra = format!("ingress = \"100 Mbit/s\"\n{own}");
    let mut gateway = world.gateway(GatewayOptions { web: Some(web), extra, ..GatewayOptions::default() })?;
    gateway.start()?;
    Ok((gateway, pages))
}

/// From nothing to a site that replicates: what the wizard leads through.
fn first_run(eyes: &mut Eyes, gateway: &Gateway, edge: &mut Edge, image: &Path) -> Result<()> {
    let code = std::fs::read_to_string(gateway.state().join("setup.code"))?;
    eyes.goto("/")?;
    ensure!(eyes.browser.url()?.ends_with("/setup"), "a new gateway asks for its first account");
    eyes.look("setup", "en", WIDTHS[0])?;
    eyes.fill("#code", "not the code at all")?;
    eyes.fill("#name", "chief")?;
    eyes.fill("#new-password", PASSWORD)?;
    eyes.click("main button[type=submit]")?;
    eyes.browser.wait_text("this is not the set-up code")?;
    let _said = eyes.browser.console()?; // that it was refused
    eyes.fill("#code", code.trim())?;
    eyes.click("main button[type=submit]")?;
    eyes.browser.wait("the wizard", "location.pathname === '/welcome'")?;

    eyes.browser.wait("the first step", "document.querySelector('#site')")?;
    eyes.fill("#site", edge.site())?;
    eyes.fill("#zone", "Asia/Shanghai")?;
    eyes.browser.run("document.querySelector('input[name=\"first.preset\"]:last-of-type').closest('form').querySelectorAll('input[name=\"first.preset\"]').forEach((r) => { if (r.value.includes('always')) r.click(); })")?;
    eyes.look("welcome-1", "en", WIDTHS[0])?;
    eyes.press("Make the site")?;
    eyes.browser.wait("the second step", "location.search.includes('step=2')")?;
    eyes.browser.wait("the token", "document.querySelector('.secret textarea, .secret input')?.value.length > 20")?;
    eyes.look("welcome-2", "en", WIDTHS[0])?;
    let token = eyes.browser.run("return document.querySelector('.secret textarea, .secret input').value")?;
    eyes.press("Next")?;
    eyes.browser.wait("the third step", "location.search.includes('step=3')")?;
    eyes.look("welcome-3-waits", "en", WIDTHS[0])?;
    edge.enrol(token.as_str().context("a token")?)?;
    edge.start()?;
    eyes.browser.wait_text("The edge is connected")?;
    eyes.look("welcome-3-connected", "en", WIDTHS[0])?;
    edge.add_volume("disk", image)?;
    edge.capture("disk")?;
    Ok(())
}

/// A pause whose cost is said before, and that is ended again.
fn pause_and_go_on(eyes: &mut Eyes, edge: &Edge) -> Result<()> {
    eyes.goto(&format!("/sites/bank/{}", edge.site()))?;
    eyes.press("Pause for a while")?;
    eyes.fill("#pause-reason", "stock taking")?;
    eyes.browser
        .wait("what it costs", "document.querySelector('form[data-cost] .cost')?.innerText.includes('less')")?;
    let shot = screenshots().join("site-pause-en-1440.png");
    eyes.browser.screenshot(&shot)?;
    eyes.press("Pause\u{a0}").or_else(|_| eyes.click("form[data-cost] button[type=submit]"))?;
    wait_edge(edge, |standing| standing["reason"] == "pause")?;
    eyes.browser.wait_text("stock taking")?;
    eyes.browser.wait_text("paused")?;
    eyes.fill("input[id^=end-]", "done earlier")?;
    eyes.press("End it")?;
    wait_edge(edge, |standing| standing["reason"] != "pause")
}

fn wait_edge(edge: &Edge, wanted: impl Fn(&serde_json::Value) -> bool) -> Result<()> {
    let until = Instant::now() + SOON;
    loop {
        let standing = edge.status()?["allowance"].clone();
        if wanted(&standing) {
            return Ok(());
        }
        ensure!(Instant::now() < until, "the edge says {standing}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Paints a week, sees what it comes to, saves it with a reason, and sees the edge take it.
fn paint(eyes: &mut Eyes, edge: &Edge) -> Result<()> {
    eyes.goto(&format!("/schedule/bank/{}", edge.site()))?;
    eyes.browser.wait("the preview", "document.querySelector('#open-hours')?.innerText.match(/\\d/)")?;
    let before = eyes.browser.run("return document.querySelector('#open-hours').innerText")?;
    // Without a mouse: times, days and profile as fields.
    eyes.browser.run("document.querySelector('#paint-times').closest('details')?.setAttribute('open', '')")?;
    eyes.fill("#paint-from", "08:00")?;
    eyes.fill("#paint-to", "18:00")?;
    eyes.browser.run("const s = document.querySelector('#paint-profile'); s.value = [...s.options].find((o) => o.text.includes('closed') || o.value === '0').value; s.dispatchEvent(new Event('change', { bubbles: true })); document.querySelectorAll('#paint-times input[type=checkbox]').forEach((b) => { b.checked = true; })")?;
    eyes.click("#paint-times button[type=submit]")?;
    eyes.browser.wait("another preview", &format!("document.querySelector('#open-hours').innerText !== {before}"))?;
    eyes.browser.wait("the diff", "document.querySelector('#diff').innerText.includes('+')")?;
    eyes.fill("#reason", "the branch's business hours")?;
    eyes.browser.wait("that it may be saved", "!document.querySelector('#save-button').disabled")?;
    eyes.browser.screenshot(&screenshots().join("schedule-painted-en-1440.png"))?;
    eyes.click("#save-button")?;
    wait_edge(edge, |standing| standing["policy"].as_u64() >= Some(4))?;
    Ok(())
}

/// What the owner of a line has to agree to, from the request to the deed.
fn agree(eyes: &mut Eyes, edge: &Edge, gateway: &Gateway) -> Result<()> {
    // The owner's account, by the page of users.
    eyes.goto("/users")?;
    eyes.fill("#new-name", "owner")?;
    eyes.browser.run("const s = document.querySelector('#new-role'); s.value = 'approver'")?;
    eyes.click("form[data-api='/api/v1/accounts'] button[type=submit]")?;
    eyes.browser.wait("the password", "[...document.querySelectorAll('.secret textarea, .secret input')].some((f) => f.value.length > 10 && f.offsetParent !== null)")?;
    let given = eyes.browser.run("return [...document.querySelectorAll('.secret textarea, .secret input')].find((f) => f.value.length > 10).value")?;
    // Data in blackouts needs the owner's word.
    eyes.goto(&format!("/sites/bank/{}", edge.site()))?;
    eyes.press("Boost for a while")?;
    eyes.fill("#boost-reason", "quarter end")?;
    eyes.click("input[name=pierce]")?;
    eyes.browser.run("[...document.querySelectorAll('form[data-cost]')].find((f) => f.querySelector('[name=pierce]')).querySelector('button[type=submit]').click()")?;
    eyes.browser.wait_text("A second person has to agree")?;
    eyes.goto("/approvals")?;
    eyes.browser.wait_text("data may be sent in blackouts")?;
    sign_out(eyes)?;
    sign_in(eyes, "owner", given.as_str().context("a password")?)?;
    eyes.browser.wait("the page for a password of one's own", "location.pathname === '/password'")?;
    eyes.fill("#present", given.as_str().unwrap_or_default())?;
    eyes.fill("#new-password", "a bridge over the same river")?;
    eyes.click("main form button[type=submit]")?;
    eyes.browser.wait("the fleet", "location.pathname === '/'")?;
    eyes.goto("/approvals")?;
    eyes.browser.screenshot(&screenshots().join("approvals-waiting-en-1440.png"))?;
    eyes.fill("input[id^=reason-]", "agreed by telephone")?;
    eyes.press("Agree")?;
    wait_edge(edge, |standing| standing["policy"].as_u64() >= Some(5))?;
    let history = gateway.run("policy", &["history", "--site", edge.site()])?;
    ensure!(history.contains("also in blackouts") && history.contains("chief"), "{history}");
    sign_out(eyes)?;
    sign_in(eyes, "chief", PASSWORD)?;
    eyes.browser.wait("the fleet", "location.pathname === '/'")?;
    let _refusals_of_roles = eyes.browser.console()?;
    Ok(())
}

fn sign_out(eyes: &Eyes) -> Result<()> {
    eyes.click("button.sign-out")?;
    Ok(eyes.browser.wait("the page for signing in", "location.pathname === '/sign-in'")?)
}

fn sign_in(eyes: &Eyes, name: &str, password: &str) -> Result<()> {
    eyes.goto("/sign-in")?;
    eyes.fill("#name", name)?;
    eyes.fill("#password", password)?;
    eyes.click("main button[type=submit]")?;
    Ok(eyes.browser.wait("another page", "location.pathname !== '/sign-in'")?)
}

/// A generation is verified and rehydrated by its page, with a job to look at.
fn verify_and_rehydrate(eyes: &mut Eyes, world: &World, edge: &Edge, image: &Path) -> Result<()> {
    let volume = format!("/volumes/bank/{}/disk", edge.site());
    for (form, proof) in [("verify", "is what was captured"), ("rehydrate", "its root is right")] {
        eyes.goto(&volume)?;
        eyes.click(&format!("form[data-api$='/{form}'] button[type=submit]"))?;
        eyes.browser.wait("the job's page", "location.pathname.startsWith('/jobs/')")?;
        eyes.browser.wait_text(proof)?;
    }
    let rebuilt = world.path().join("targets").join(format!("{}-disk.img", edge.site()));
    ensure!(std::fs::read(rebuilt)? == std::fs::read(image)?, "what was rehydrated by the page is the volume");
    Ok(())
}

#[test]
fn people_see_everything_and_steer_it_in_a_real_browser() -> Result<()> {
    let world = World::new()?;
    let (gateway, pages) = gateway_with_pages(&world)?;
    let Some(mut eyes) = Eyes::open(pages)? else { return Ok(()) };
    let sample = Sample::create(&world.path().join("disk.img"), 24 << 20, 7)?;
    let mut edge = world.edge("branch-07", EdgeOptions::default())?;
    first_run(&mut eyes, &gateway, &mut edge, sample.path())?;
    pause_and_go_on(&mut eyes, &edge)?;
    paint(&mut eyes, &edge)?;
    agree(&mut eyes, &edge, &gateway)?;
    verify_and_rehydrate(&mut eyes, &world, &edge, sample.path())?;

    let site = format!("bank/{}", edge.site());
    let month = jiff::Timestamp::now().strftime("%Y-%m").to_string();
    let pages: Vec<(&str, String)> = vec![
        ("fleet", "/".into()),
        ("site", format!("/sites/{site}")),
        ("volume", format!("/volumes/{site}/disk")),
        ("schedules", "/schedule".into()),
        ("schedule", format!("/schedule/{site}")),
        ("quotas", "/quotas".into()),
        ("grants", "/grants".into()),
        ("report", format!("/reports?site={}&month={month}", site.replace('/', "%2F"))),
        ("approvals", "/approvals".into()),
        ("retention", "/retention".into()),
        ("jobs", "/jobs".into()),
        ("audit", "/audit".into()),
        ("users", "/users".into()),
        ("me", "/me".into()),
        ("settings", "/settings".into()),
        ("help", "/help".into()),
        ("help-operator", "/help/operator".into()),
        ("welcome", "/welcome".into()),
    ];
    eyes.look_at_all(&pages)?;
    // The whole of it by keyboard: the skip link is first, and leads to the content.
    eyes.goto("/")?;
    eyes.browser.press("\u{e004}\u{e007}")?;
    eyes.browser.wait("the content to have the focus", "document.activeElement?.id === 'content'")?;
    sign_out(&eyes)?;
    eyes.look("sign-in", "en", WIDTHS[0])?;
    ensure!(eyes.looked >= pages.len() * 5, "{} looks", eyes.looked);
    eyes.content()
}

#[test]
fn the_edges_page_enrols_and_steers_a_box_in_a_real_browser() -> Result<()> {
    let world = World::new()?;
    let mut gateway = world.gateway(GatewayOptions::default())?;
    gateway.start()?;
    let page = free_tcp()?;
    let Some(mut eyes) = Eyes::open(page)? else { return Ok(()) };
    let extra = format!("{}page = \"{page}\"\n", EdgeOptions::default().extra);
    let mut edge = world.edge("branch-07", EdgeOptions { extra, ..EdgeOptions::default() })?;
    edge.start()?;
    let said = edge.run("page", &["--new-pin"])?;
    let pin =
        said.split(|c: char| !c.is_ascii_digit() && c != ' ' && c != '-').map(|word| word.replace([' ', '-'], ""));
    let pin = pin.into_iter().find(|word| word.len() == 8 && word.bytes().all(|b| b.is_ascii_digit()));
    let pin = pin.with_context(|| format!("no PIN in {said}"))?;
    eyes.goto("/")?;
    eyes.look("edge-login", "en", WIDTHS[1])?;
    eyes.fill("input[type=password], input[name=pin]", "00000000")?;
    eyes.click("main button[type=submit]")?;
    eyes.browser.wait(
        "a refusal",
        "document.body.innerText.length > 0 && document.querySelector('[role=alert], .problem, .note')",
    )?;
    let _said = eyes.browser.console()?;
    eyes.fill("input[type=password], input[name=pin]", &pin)?;
    eyes.click("main button[type=submit]")?;
    eyes.browser.wait("the page for enrolling", "document.querySelector('[name=token]')")?;
    eyes.look("edge-enrol", "en", WIDTHS[1])?;
    let token = gateway.token("branch-07")?;
    eyes.fill("[name=token]", token.trim())?;
    eyes.click("form[action='/enrol'] button[type=submit]")?;
    eyes.browser.wait("the page of now", "document.body.innerText.includes('branch-07')")?;
    let sample = Sample::create(&world.path().join("disk.img"), 8 << 20, 7)?;
    edge.add_volume("disk", sample.path())?;
    edge.capture("disk")?;
    eyes.look_at_all(&[("edge", "/".into())])?;
    eyes.content()
}

/// The first account, by its page.
fn set_up_by_browser(eyes: &mut Eyes, gateway: &Gateway) -> Result<()> {
    let code = std::fs::read_to_string(gateway.state().join("setup.code"))?;
    eyes.goto("/setup")?;
    eyes.fill("#code", code.trim())?;
    eyes.fill("#name", "chief")?;
    eyes.fill("#new-password", PASSWORD)?;
    eyes.click("main button[type=submit]")?;
    Ok(eyes.browser.wait("a page", "location.pathname !== '/setup'")?)
}

/// A target is set up by its page, tested, kept at the latest of a volume; what it holds and what was proved is told, and a run that rests too.
#[test]
fn targets_are_set_up_and_kept_at_the_latest_in_a_real_browser() -> Result<()> {
    let world = World::new()?;
    let (gateway, pages) = gateway_with_pages(&world)?;
    let Some(mut eyes) = Eyes::open(pages)? else { return Ok(()) };
    let sample = Sample::create(&world.path().join("disk.img"), 24 << 20, 7)?;
    let mut edge = world.edge("branch-07", EdgeOptions::default())?;
    edge.enrol(&gateway.token("branch-07")?)?;
    edge.start()?;
    edge.add_volume("disk", sample.path())?;
    edge.capture("disk")?;
    set_up_by_browser(&mut eyes, &gateway)?;
    eyes.goto("/targets")?;
    eyes.browser.wait_text("No target is set up yet")?;
    eyes.look("targets-none", "en", WIDTHS[0])?;
    let folder = world.path().join("targets");
    eyes.press("Folder of raw files")?;
    eyes.fill("#raw-name", "vault")?;
    // Outside first: it is said what is wrong, beside the button.
    eyes.fill("#raw-setting-folder", "/etc/sluice")?;
    eyes.press("Set it up")?;
    eyes.browser.wait_text("does not lie in a folder for targets")?;
    let _refused = eyes.browser.console()?;
    let vault = folder.join("vault");
    std::fs::create_dir(&vault)?;
    eyes.fill("#raw-setting-folder", &vault.to_string_lossy())?;
    eyes.press("Set it up")?;
    eyes.browser.wait("its row", "document.querySelector('a[href=\"/targets/bank/vault\"]')")?;
    eyes.press("Test")?;
    eyes.browser.wait("the job's page", "location.pathname.startsWith('/jobs/')")?;
    eyes.browser.wait_text("the folder is there")?;

    eyes.goto("/targets/bank/vault")?;
    eyes.press("Keep")?;
    eyes.browser.wait_text("finished and proved")?;
    eyes.browser.wait_text("The copy is current")?;
    eyes.press("Ask what it holds")?;
    eyes.browser.wait("the job's page", "location.pathname.startsWith('/jobs/')")?;
    eyes.browser.wait_text("branch-07/disk")?;
    eyes.goto("/targets/bank/vault")?;
    eyes.browser.wait_text(".raw")?;
    let files: Vec<_> = std::fs::read_dir(&vault)?.filter_map(|entry| Some(entry.ok()?.path())).collect();
    let raw = files.iter().find(|path| path.extension().is_some_and(|e| e == "raw")).context("a file")?;
    ensure!(std::fs::read(raw)? == std::fs::read(sample.path())?, "what is on the target is the volume");
    // An order that fails, with its cause; and one that rests because somebody said so.
    gateway
        .run("target", &["add", "broken", "--tenant", "bank", "--folder", &folder.join("gone").to_string_lossy()])?;
    gateway.run("target", &["keep", "broken", "--volume", "branch-07/disk"])?;
    eyes.goto("/targets/bank/broken")?;
    eyes.browser.wait_text("failing")?;
    eyes.goto("/volumes/bank/branch-07/disk")?;
    eyes.browser.wait_text("holds generation 1")?;
    eyes.look_at_all(&[
        ("targets", "/targets".into()),
        ("target", "/targets/bank/vault".into()),
        ("target-failing", "/targets/bank/broken".into()),
        ("volume-on-targets", "/volumes/bank/branch-07/disk".into()),
        ("proof-of-rehydration", "/proofs/1".into()),
        ("help-targets", "/help/targets".into()),
    ])?;
    eyes.look_unfolded("targets-forms", "/targets")?;
    eyes.goto("/targets/bank/vault")?;
    eyes.press("Pause")?;
    eyes.browser.wait_text("paused")?;
    eyes.press("Resume")?;
    eyes.browser.wait_text("The copy is current")?;
    eyes.content()
}
