//! The frame of every page, and who may see it.

use super::ASSETS;
use crate::access::sessions::Signed;
use crate::access::{Caller, Right, Role, Scope};
use crate::api::{Problem, signed_in};
pub(crate) use crate::text::escaped;
use crate::web::Web;
use axum::extract::{FromRequestParts, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Redirect, Response};
use look::{Asset, Language, Page};
use maud::{Markup, html};
use std::sync::Arc;

/// Somebody who looks at a page, signed in.
pub(crate) struct Visitor {
    /// Who.
    pub(crate) caller: Caller,
    /// In which language.
    pub(crate) language: Language,
    csrf: String,
    path: String,
}

/// A page that cannot be shown.
pub(crate) enum Fault {
    /// Somewhere else first: signing in, or a password of one's own.
    Elsewhere(Redirect),
    /// A problem, on a page.
    Shown(Box<Visitor>, Problem),
}

impl FromRequestParts<Arc<Web>> for Visitor {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, web: &Arc<Web>) -> Result<Visitor, Fault> {
        let path = path_of(parts);
        let Some((signed, _)) = signed_in(&parts.headers, web) else {
            let to = if web.needs_setup() { "/setup".to_owned() } else { format!("/sign-in?back={}", escaped(&path)) };
            return Err(Fault::Elsewhere(Redirect::to(&to)));
        };
        if signed.must_change {
            return Err(Fault::Elsewhere(Redirect::to("/password")));
        }
        Ok(Visitor::of(signed, look::serve::language(&parts.headers), path))
    }
}

impl Visitor {
    pub(super) fn of(signed: Signed, language: Language, path: String) -> Visitor {
        Visitor { caller: signed.caller, language, csrf: signed.csrf, path }
    }

    /// Whether they may do something for a tenant; `None`: for the whole gateway.
    pub(crate) fn may(&self, right: Right, tenant: Option<dedupe::TenantId>) -> bool {
        self.caller.require(right, tenant).is_ok()
    }

    /// Whether they may do something for whatever they see.
    pub(crate) fn has(&self, right: Right) -> bool {
        self.caller.role.has(right)
    }

    /// A page that says what went wrong.
    pub(crate) fn fault(self, problem: impl Into<Problem>) -> Fault {
        Fault::Shown(Box::new(self), problem.into())
    }
}

/// A page around its content.
pub(crate) struct Shell<'a> {
    /// Who looks.
    pub(crate) visitor: &'a Visitor,
    /// What its tab says.
    pub(crate) title: &'a str,
    /// Which entry of the navigation it belongs to: its path.
    pub(crate) place: &'a str,
    /// What it follows: nothing, all sites (`Some("")`), or one (`Some("TENANT/SITE")`).
    pub(crate) follows: Option<&'a str>,
    /// Its content.
    pub(crate) content: Markup,
}

impl Shell<'_> {
    /// The whole document.
    pub(crate) fn render(self) -> Markup {
        self.render_with(&[])
    }

    /// The whole document, with styles and scripts that other pages do not need.
    pub(crate) fn render_with(self, more: &[Asset]) -> Markup {
        let (visitor, language) = (self.visitor, self.visitor.language);
        let banner = html! {
            (page_data(language, Some(&visitor.csrf), self.follows))
            header.banner {
                div.in {
                    a.brand href="/" { "Sluice" }
                    nav aria-label=(language.of("Pages", "页面")) {
                        @for (path, name) in entries(visitor) {
                            @let beside = path == "/targets" && matches!(self.place, "/exports" | "/domains");
                            a href=(path) aria-current=[(self.place == path).then_some("page").or(beside.then_some("true"))] { (name) }
                        }
                    }
                    div.who {
                        (languages(language, &visitor.path))
                        a href="/me" aria-current=[(self.place == "/me").then_some("page")] { (visitor.caller.name) }
                        form data-api="/api/v1/session" data-method="DELETE" data-empty data-then="/sign-in" {
                            button.plain.sign-out type="submit" { (language.of("Sign out", "退出")) }
                        }
                    }
                }
            }
        };
        let content = html! {
            @if let Some(section) = super::help::section(self.place, self.follows) {
                p.to-help.noprint { a href=(section) { (language.of("Help with this page", "本页帮助")) } }
            }
            (self.content)
        };
        let assets = [ASSETS.as_slice(), more].concat();
        Page { language, title: self.title, assets: &assets, banner, content }.render()
    }
}

/// A page for whoever is not signed in.
pub(super) fn outside(language: Language, title: &str, path: &str, csrf: Option<&str>, content: Markup) -> Markup {
    let banner = html! {
        (page_data(language, csrf, None))
        header.banner { div.in { span.brand { "Sluice" } div.who { (languages(language, path)) } } }
    };
    Page { language, title, assets: &ASSETS, banner, content }.render()
}

/// What scripts need to know of the page, and the words that they say.
fn page_data(language: Language, csrf: Option<&str>, follows: Option<&str>) -> Markup {
    let words = serde_json::to_string(&words(language)).expect("words are plain JSON").replace('<', "\\u003c");
    html! {
        div #page hidden data-csrf=[csrf] data-events=[follows.map(|_| "")]
            data-site=[follows.filter(|site| !site.is_empty())] {}
        script #words type="application/json" { (maud::PreEscaped(words)) }
    }
}

fn words(language: Language) -> serde_json::Map<String, serde_json::Value> {
    let all = [
        ("unreachable", "The gateway does not answer", "网关没有响应"),
        ("unreachable-detail", "Look at the connection, and try again.", "请检查网络连接后重试。"),
        (
            "waiting",
            "A second person has to agree: it waits for approval under number",
            "须由另一人同意：已提交审批，编号",
        ),
        ("copied", "Copied", "已复制"),
        ("left", "left", "剩余"),
        ("unit:h", "h", "小时"),
        ("unit:min", "min", "分"),
        ("unit:s", "s", "秒"),
        ("problem:missing", "Not found", "未找到"),
        ("problem:invalid", "Not valid", "内容有误"),
        ("problem:conflict", "Conflict", "冲突"),
        ("problem:stale", "Changed since", "已被他人修改"),
        ("problem:forbidden", "Not allowed", "没有权限"),
        ("problem:wrong", "Not signed in", "未能登录"),
        ("problem:password", "Change the password", "请先修改密码"),
        ("problem:csrf", "Load the page again", "请重新加载页面"),
        ("problem:throttled", "Too often", "操作过于频繁"),
        ("problem:busy", "Busy", "繁忙"),
        ("problem:failed", "The gateway failed", "网关出错"),
        ("phase:writing", "writing", "正在写入"),
        ("phase:looking at the target", "looking at the target", "正在检查目标"),
        ("phase:preparing the target", "preparing the target", "正在准备目标"),
        ("phase:making it a restorable point", "making it a restorable point", "正在生成恢复点"),
        ("phase:asking the target", "asking the target", "正在查询目标"),
        ("phase:reading back", "reading back", "正在回读校验"),
        ("phase:writing anew", "writing anew", "正在重新写入"),
        ("phase:reading the store", "reading the store", "正在读取存储"),
        ("phase:reading packs", "reading packs", "正在读取数据包"),
        ("phase:looking for what nothing needs", "looking for what nothing needs", "正在查找无用数据"),
        ("phase:giving room back", "giving room back", "正在释放空间"),
        ("phase:importing", "taking the release in", "正在导入发行版"),
        ("sending", "Sending", "正在上传"),
        ("phase:", "", ""),
    ];
    all.into_iter().map(|(key, english, chinese)| (key.to_owned(), language.of(english, chinese).into())).collect()
}

/// The navigation, of what the visitor may see.
fn entries(visitor: &Visitor) -> Vec<(&'static str, &'static str)> {
    let language = visitor.language;
    let administers = visitor.has(Right::Administer);
    let whole = visitor.caller.scope == Scope::Whole;
    let all = [
        (true, "/", language.of("Fleet", "站点总览")),
        (true, "/schedule", language.of("Schedules", "时间表")),
        (true, "/quotas", language.of("Quotas", "配额")),
        (true, "/grants", language.of("Grants", "带宽分配")),
        (true, "/reports", language.of("Line report", "专线报告")),
        (true, "/targets", language.of("Targets", "目标")),
        (true, "/versions", language.of("Versions", "版本管理")),
        (true, "/retention", language.of("Retention", "保留")),
        (true, "/approvals", language.of("Approvals", "审批")),
        (true, "/jobs", language.of("Jobs", "任务")),
        (administers && whole, "/audit", language.of("Audit", "审计")),
        (administers, "/users", language.of("Users", "用户")),
        (true, "/settings", language.of("Settings", "设置")),
        (true, "/help", language.of("Help", "帮助")),
    ];
    all.into_iter().filter(|(seen, ..)| *seen).map(|(_, path, name)| (path, name)).collect()
}

fn languages(language: Language, path: &str) -> Markup {
    let other = if language == Language::English { Language::Chinese } else { Language::English };
    html! { a href=(look::serve::language_path(other, path)) lang=(other.tag()) hreflang=(other.tag()) { (other.name()) } }
}

/// A role, for people.
pub(crate) fn role(role: Role, language: Language) -> &'static str {
    match role {
        Role::Viewer => language.of("viewer", "查看员"),
        Role::Operator => language.of("operator", "操作员"),
        Role::Approver => language.of("approver", "审批人"),
        Role::Administrator => language.of("administrator", "管理员"),
    }
}

/// A form's place for what went wrong, read out by screen readers.
pub(crate) fn problem_place() -> Markup {
    html! { p.problem role="alert" {} }
}

/// What is said where there is nothing yet, and what to do next.
pub(crate) fn empty(title: &str, next: Markup) -> Markup {
    html! { div.card { h2 { (title) } (next) } }
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        let (visitor, problem) = match self {
            Fault::Elsewhere(to) => return to.into_response(),
            Fault::Shown(visitor, problem) => (visitor, problem),
        };
        let language = visitor.language;
        let title = match problem.status {
            404 => language.of("Not found", "未找到"),
            403 => language.of("Not allowed", "没有权限"),
            _ => language.of("This did not work", "操作未成功"),
        };
        let content = html! {
            div.card {
                h1 { (title) }
                p { (problem.detail) }
                p { a href="/" { (language.of("Back to the fleet", "返回站点总览")) } }
            }
        };
        let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, Shell { visitor: &visitor, title, place: "", follows: None, content }.render()).into_response()
    }
}

/// A path that leads nowhere.
pub(super) async fn nowhere(State(_web): State<Arc<Web>>, visitor: Visitor) -> Fault {
    let detail = visitor.language.of("There is no page at this address.", "此地址没有页面。");
    visitor.fault(Problem::missing(detail))
}

pub(super) fn path_of(parts: &Parts) -> String {
    parts.uri.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string)
}
