//! What pages have in common.

use super::shell::escaped;
use crate::access::Caller;
use crate::api::Problem;
use crate::web::{Web, blocking};
use dedupe::UnixMillis;
use look::Language;
use maud::{Markup, html};
use std::sync::Arc;

/// A moment. Scripts show it by the clock of whoever looks; without them it is UTC, and says so.
pub(super) fn moment(at: UnixMillis) -> Markup {
    let at = crate::policies::timestamp(at);
    html! { time datetime=(at) data-local { (at.strftime("%Y-%m-%d %H:%M UTC")) } }
}

/// A secret that is shown once: a field to copy from, and to be kept as a file.
pub(super) fn secret(id: &str, file: &str, (title, then): (&str, Markup), language: Language) -> Markup {
    html! {
        div.secret hidden {
            label for=(id) { (title) }
            textarea id=(id) readonly rows="3" spellcheck="false" {}
            div.row {
                button.plain type="button" data-copy=(id) { (language.of("Copy", "复制")) }
                button.plain type="button" data-download=(id) data-name=(file) { (language.of("Save as a file", "保存为文件")) }
            }
            p.hint { (language.of("It is shown only now and kept nowhere.", "仅此一次显示，系统不保存。")) }
            (then)
        }
    }
}

/// Name of a tenant and of its site.
pub(super) type SiteName = (String, String);

/// The sites that somebody sees, by tenant and name.
pub(super) async fn site_names(web: &Arc<Web>, caller: &Caller) -> Result<Vec<SiteName>, Problem> {
    let (web, caller) = (web.clone(), caller.clone());
    blocking(move || {
        let tenants = web.state.catalogue.tenants()?;
        let sites = web.state.catalogue.sites()?.into_iter();
        let named = sites.filter_map(|site| {
            let tenant = tenants.iter().find(|tenant| tenant.id == site.tenant && caller.sees(tenant))?;
            Some((tenant.name.clone(), site.name))
        });
        let mut names: Vec<_> = named.collect();
        names.sort();
        Ok(names)
    })
    .await
}

/// Between the pages of what generations are put on, served as, and booted on.
pub(super) fn beside(place: &str, language: Language) -> Markup {
    let pages = [
        ("/targets", language.of("Targets", "目标")),
        ("/exports", language.of("Exports", "导出")),
        ("/domains", language.of("Domains", "虚拟机")),
    ];
    html! {
        nav.beside aria-label=(language.of("Where generations are used", "版本的使用方式")) {
            @for (path, name) in pages { a href=(path) aria-current=[(path == place).then_some("page")] { (name) } }
        }
    }
}

/// The page of a volume, by its whole name.
pub(super) fn volume_link(volume: &str) -> Markup {
    let parts: Vec<&str> = volume.splitn(3, '/').collect();
    html! {
        @if let [tenant, site, volume] = parts[..] {
            a href={ "/volumes/" (escaped(tenant)) "/" (escaped(site)) "/" (escaped(volume)) } { (site) " / " (volume) }
        } @else { (volume) }
    }
}

/// The page of a site.
pub(super) fn site_link(tenant: &str, site: &str) -> Markup {
    html! { a href={ "/sites/" (escaped(tenant)) "/" (escaped(site)) } { (site) } }
}

/// What is said to whoever may look and no more.
pub(super) fn only(language: Language, english: &'static str, chinese: &'static str) -> Markup {
    html! { p.note { (language.of(english, chinese)) } }
}
