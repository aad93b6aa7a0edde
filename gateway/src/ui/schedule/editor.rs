//! The editor: the frame that `schedule.js` fills, in the visitor's language.

use super::{Entry, entries, held};
use crate::access::Right;
use crate::api::sites::with_site;
use crate::catalogue::PolicyRow;
use crate::fleet::SiteView;
use crate::ui::shell::{escaped, problem_place};
use crate::ui::{EDITOR, Fault, Shell, Visitor};
use crate::web::Web;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use look::Language;
use maud::{Markup, PreEscaped, html};
use serde_json::json;
use std::sync::Arc;
use tokio::time::Instant;

/// Nights and weekends, in the hours in which branches are closed.
const NIGHT: &str = "00:00 night 07:30 closed 19:30 night";

struct Known {
    view: SiteView,
    row: Option<PolicyRow>,
    may: bool,
}

pub(super) async fn show(
    State(web): State<Arc<Web>>,
    visitor: Visitor,
    Path((tenant, site)): Path<(String, String)>,
) -> Result<Response, Fault> {
    let known = with_site(&web, &visitor.caller, &tenant, &site, |web, caller, tenant, site| {
        let view = web.fleet.site(caller, tenant, site, Instant::now())?;
        let may = caller.require(Right::Operate, Some(tenant.id)).is_ok();
        Ok(Known { view, row: web.state.catalogue.policy(site.id)?, may })
    });
    let all = entries(&web, &visitor, Some(&tenant));
    let (known, all) = match (known.await, all.await) {
        (Ok(known), Ok(all)) => (known, all),
        (Err(problem), _) | (_, Err(problem)) => return Err(visitor.fault(problem)),
    };
    let language = visitor.language;
    let content = html! {
        (head(&known, language))
        @if known.row.is_none() { (beginning(language, known.may)) }
        div #editor.editor hidden[known.row.is_none()] {
            div.work {
                (tabs(language))
                (week(language))
                (dates(language))
                (profiles(language))
                (text(language, &known))
            }
            (outcome(language))
        }
        @if known.may { (saving(&known, &all, language)) }
        noscript { p.note.warn { (language.of("The editor needs JavaScript; `sluice-gateway policy set` does without.", "编辑器需要 JavaScript；也可使用命令 `sluice-gateway policy set`。")) } }
        p.sr #announced aria-live="polite" {}
        (given(&known, language))
    };
    let title = format!("{} · {}", language.of("Schedule", "时间表"), known.view.site);
    let shell = Shell { visitor: &visitor, title: &title, place: "/schedule", follows: Some(""), content };
    Ok(shell.render_with(&EDITOR).into_response())
}

fn head(known: &Known, language: Language) -> Markup {
    let view = &known.view;
    html! {
        div.head {
            div {
                p.small { a href="/schedule" { (language.of("Schedules", "时间表")) } " / " a href={ "/sites/" (escaped(&view.tenant)) "/" (escaped(&view.site)) } { (view.site) } }
                h1 { (language.of("Schedule of ", "时间表：")) (view.site) " " span.soft { (view.tenant) } }
                p data-part="held" {
                    @if let Some(version) = view.policy { (language.of("version ", "版本 ")) (version) " " }
                    (held(view, language))
                }
            }
            div.row {
                button.plain #undo type="button" disabled { (language.of("Undo", "撤销")) }
                button.plain #redo type="button" disabled { (language.of("Redo", "重做")) }
            }
        }
    }
}

/// What is asked before there is a policy.
fn beginning(language: Language, may: bool) -> Markup {
    html! {
        section.card #beginning {
            h2 { (language.of("This site has no policy yet", "该站点还没有策略")) }
            @if !may { p { (language.of("Until it has one its line runs as the edge's configuration says. An operator makes one.", "在有策略之前，专线按边缘设备的配置运行。请操作员新建策略。")) } }
            @else {
                p { (language.of("Say what its line carries and choose a schedule to begin with; everything can be changed before it is saved.", "填写专线速率并选择一份初始时间表，保存之前均可修改。")) }
                form #begin {
                    div.fields {
                        div.field { label for="begin-zone" { (language.of("Time zone", "时区")) } input #begin-zone name="zone" required maxlength="60" list="zones" autocomplete="off";
                            datalist #zones { @for zone in ["Asia/Shanghai", "Asia/Hong_Kong", "Asia/Singapore", "Asia/Tokyo", "Europe/Berlin", "Europe/London", "America/New_York", "America/Chicago", "America/Los_Angeles", "Australia/Sydney", "UTC"] { option value=(zone) {} } } }
                        div.field { label for="begin-up" { (language.of("Line towards the gateway", "上行速率（至网关）")) } input #begin-up name="up" required placeholder="2 Mbit/s" maxlength="30"; }
                        div.field { label for="begin-down" { (language.of("Line towards the site", "下行速率（至站点）")) } input #begin-down name="down" placeholder=(language.of("the same", "与上行相同")) maxlength="30"; }
                        div.field { label for="begin-cap" { (language.of("Never above", "上限")) } input #begin-cap name="cap" value="80 %" maxlength="30"; }
                        div.field { label for="begin-preset" { (language.of("Begin with", "初始时间表")) } select #begin-preset name="preset" {
                            @for (key, name, ..) in presets(language) { option value=(key) { (name) } }
                        } }
                    }
                    (problem_place())
                    button type="submit" { (language.of("Begin", "开始")) }
                }
            }
        }
    }
}

fn tabs(language: Language) -> Markup {
    let all = [
        ("week", language.of("Week", "每周")),
        ("dates", language.of("Calendar", "日历")),
        ("profiles", language.of("Profiles", "档位")),
        ("text", language.of("Text", "文本")),
    ];
    html! {
        div.tabs role="tablist" aria-label=(language.of("Parts of the schedule", "时间表的各部分")) {
            @for (at, (key, name)) in all.into_iter().enumerate() {
                button.tab type="button" role="tab" id={ "tab-" (key) } aria-controls={ "panel-" (key) } aria-selected=(at == 0) tabindex=(if at == 0 { "0" } else { "-1" }) { (name) }
            }
        }
    }
}

fn week(language: Language) -> Markup {
    let days = language.of(
        ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"],
        ["周一", "周二", "周三", "周四", "周五", "周六", "周日"],
    );
    html! {
        section.card.panel #panel-week role="tabpanel" aria-labelledby="tab-week" {
            p.note.warn #stale hidden { (language.of("The text has a mistake: put it right there, or undo, before you paint.", "文本中有错误：请先在“文本”中改正或撤销，再继续绘制。")) }
            div.row.tools {
                div.palette #palette role="radiogroup" aria-label=(language.of("Paint with", "绘制档位")) {}
                fieldset.grain { legend.sr { (language.of("Grain", "精度")) }
                    @for minutes in ["15", "30", "60"] { label.check { input type="radio" name="grain" value=(minutes) checked[minutes == "30"]; (minutes) " " (language.of("min", "分")) } }
                }
            }
            div #grid.grid role="grid" aria-label=(language.of("The week", "一周")) aria-multiselectable="true" aria-describedby="grid-help" {}
            p.readout #readout { " " }
            p.hint #grid-help { (language.of(
                "Drag over the cells, or click a day or an hour, to paint. By keyboard: arrows move, Shift extends, a digit or letter chooses the profile, Enter paints, Ctrl+Z takes back.",
                "拖动单元格，或点击星期、小时，即可绘制。键盘：方向键移动，Shift 扩展选区，数字或字母选择档位，Enter 绘制，Ctrl+Z 撤销。")) }
            div.ways {
                details { summary { (language.of("Paint by times", "按时间绘制")) }
                    form #paint-times {
                        fieldset.days { legend { (language.of("Days", "日期")) } @for (at, day) in days.iter().enumerate() { label.check { input type="checkbox" name="day" value=(at); (day) } } }
                        div.fields {
                            div.field { label for="paint-from" { (language.of("From", "从")) } input #paint-from name="from" value="19:30" required maxlength="5" pattern="[0-9]{1,2}:(00|15|30|45)"; }
                            div.field { label for="paint-to" { (language.of("To", "至")) } input #paint-to name="to" value="07:30" required maxlength="5" pattern="[0-9]{1,2}:(00|15|30|45)"; }
                            div.field { label for="paint-profile" { (language.of("Profile", "档位")) } select #paint-profile.profiles-of name="profile" {} }
                        }
                        p.hint { (language.of("An end before the beginning runs into the next day.", "结束早于开始时，延续到次日。")) }
                        button.plain type="submit" { (language.of("Paint", "绘制")) }
                    }
                }
                details { summary { (language.of("Copy a day", "复制某天")) }
                    form #copy-day {
                        div.field { label for="copy-from" { (language.of("Copy", "复制")) } select #copy-from name="from" { @for (at, day) in days.iter().enumerate() { option value=(at) { (day) } } } }
                        fieldset.days { legend { (language.of("to", "到")) } @for (at, day) in days.iter().enumerate() { label.check { input type="checkbox" name="day" value=(at); (day) } } }
                        button.plain type="submit" { (language.of("Copy", "复制")) }
                    }
                }
                details { summary { (language.of("Presets", "预设")) }
                    p.hint { (language.of("A preset paints the whole week and adds the profiles that it needs.", "预设会重绘整周，并添加所需档位。")) }
                    div.row { @for (key, name, ..) in presets(language) { button.plain type="button" data-preset=(key) { (name) } } }
                }
            }
        }
    }
}

fn dates(language: Language) -> Markup {
    html! {
        section.card.panel #panel-dates role="tabpanel" aria-labelledby="tab-dates" hidden {
            p.small.soft.keys {
                span.day-key.off {} (language.of("day off", "节假日")) " " span.day-key.work {} (language.of("make-up working day", "调休上班")) " "
                span.day-key.exc {} (language.of("exception", "例外")) " " span.day-key.bar {} (language.of("blackout", "禁传时段"))
            }
            div #months.months role="group" aria-label=(language.of("Twelve months", "十二个月")) {}
            p.hint { (language.of("Click a day, or drag over several, then say what holds on them. By keyboard: arrows move, Shift extends, Enter goes to the form.", "点击或拖选日期，再指定当天的安排。键盘：方向键移动，Shift 扩展，Enter 转到表单。")) }
            form #add-dates.card {
                h2 { (language.of("Add", "添加")) }
                div.fields {
                    div.field { label for="add-kind" { (language.of("What", "类型")) } select #add-kind name="kind" {
                        option value="exception" { (language.of("exception: another profile", "例外：使用其他档位")) }
                        option value="blackout" { (language.of("blackout: no data", "禁传时段：不传数据")) }
                        option value="silent" { (language.of("silent blackout: nothing at all", "静默时段：完全不通信")) }
                        option value="off" { (language.of("day off", "节假日")) }
                        option value="working" { (language.of("make-up working day", "调休上班日")) }
                    } }
                    div.field { label for="add-name" { (language.of("Name", "名称")) } input #add-name name="name" maxlength="100"; }
                    div.field { label for="add-when" { (language.of("Which dates", "日期")) } input #add-when name="when" required maxlength="100" placeholder="2026-12-24..2026-12-26"; }
                    div.field.for-rule { label for="add-hours" { (language.of("Hours", "时段")) } input #add-hours name="hours" value="00:00-24:00" maxlength="11"; }
                    div.field.for-exception { label for="add-profile" { (language.of("Profile", "档位")) } select #add-profile.profiles-of name="profile" {} }
                }
                p.hint { (language.of("Dates may also be a rule: ", "日期也可以是规则：")) code { "day 1..3" } ", " code { "last business day of month -1..+2" } ", " code { "second tuesday" } ", " code { "12-24..01-02" } ", " code { "holidays" } }
                (problem_place())
                button.plain type="submit" { (language.of("Add", "添加")) }
            }
            div #rules {}
            div.fields.card.holiday-rows {
                div.field { label for="holidays-as" { (language.of("On days off this row of the week holds", "节假日按以下星期执行")) } select #holidays-as {} }
                div.field { label for="working-as" { (language.of("On make-up working days this one", "调休上班日按以下星期执行")) } select #working-as {} }
            }
            div.card {
                h2 { (language.of("Import holidays", "导入节假日")) }
                div.field { label for="ics" { (language.of("iCalendar file (.ics)", "iCalendar 文件（.ics）")) } input #ics type="file" accept=".ics,text/calendar"; }
                div #imported {}
            }
        }
    }
}

fn profiles(language: Language) -> Markup {
    html! {
        section.card.panel #panel-profiles role="tabpanel" aria-labelledby="tab-profiles" hidden {
            p.hint { (language.of("A rate as \"2 Mbit/s\", or a share of the line as \"80 %\". The line's cap holds above all.", "填写速率（如 2 Mbit/s）或专线占比（如 80 %）。始终受专线上限约束。")) }
            div #profile-rows {}
            div.row { button.plain #add-profile-row type="button" { (language.of("Add a profile", "添加档位")) } }
            h2.spaced { (language.of("The line", "专线")) }
            div.fields #line-fields {
                div.field { label for="line-zone" { (language.of("Time zone", "时区")) } input #line-zone data-line="zone" maxlength="60"; }
                div.field { label for="line-up" { (language.of("Towards the gateway", "上行（至网关）")) } input #line-up data-line="up" maxlength="30"; }
                div.field { label for="line-down" { (language.of("Towards the site", "下行（至站点）")) } input #line-down data-line="down" maxlength="30"; }
                div.field { label for="line-cap" { (language.of("Never above (cap)", "上限")) } input #line-cap data-line="cap" maxlength="30"; }
                div.field { label for="line-courtesy" { (language.of("Makes way from a queue of (courtesy)", "排队超过此时延即让行")) } input #line-courtesy data-line="courtesy" maxlength="30"; }
            }
        }
    }
}

fn text(language: Language, known: &Known) -> Markup {
    html! {
        section.card.panel #panel-text role="tabpanel" aria-labelledby="tab-text" hidden {
            label for="document" { (language.of("The whole policy as text (TOML)", "完整策略文本（TOML）")) }
            div.source {
                pre #lines aria-hidden="true" {}
                textarea #document spellcheck="false" autocapitalize="off" autocomplete="off" wrap="off" rows="24" readonly[!known.may] aria-describedby="text-help" { (known.row.as_ref().map(|row| row.document.as_str()).unwrap_or_default()) }
            }
            p.hint #text-help { (language.of("Quotas, volumes and overrides are changed here too. What you paint is put into this text; comments stay.", "配额、卷等设置也可在此修改。绘制的内容会写入此文本，注释保留。")) }
        }
    }
}

/// What it comes to, beside the work.
fn outcome(language: Language) -> Markup {
    html! {
        aside.outcome aria-label=(language.of("Preview", "预览")) {
            div #problems role="alert" {}
            section.card #preview {
                h2 { (language.of("What it comes to", "效果预览")) " " span.small.soft #preview-state {} }
                dl.facts.figures {
                    dt { (language.of("Open in the next 7 days", "未来 7 天开放")) } dd #open-hours { "–" }
                    dt { (language.of("Fits into a night", "每晚可传")) } dd #night-bytes { "–" }
                    dt { (language.of("Tonight's backlog", "今晚待传")) } dd #tonight { "–" }
                }
                div #clocks {}
                h3.spaced { (language.of("The next 14 days", "未来 14 天")) }
                div #days.days-ahead {}
                p.small.soft #legend {}
            }
        }
    }
}

/// For which sites, why, and the button.
fn saving(known: &Known, all: &[Entry], language: Language) -> Markup {
    let own = all
        .iter()
        .find(|entry| entry.view.site == known.view.site)
        .map(|entry| entry.group.as_str())
        .unwrap_or_default();
    html! {
        section.card #saving hidden[known.row.is_none()] aria-labelledby="saving-title" {
            h2 #saving-title { (language.of("Save", "保存")) }
            details #diff-box open { summary { (language.of("What changes", "变更内容")) } pre #diff.diff tabindex="0" {} }
            div #causes {}
            div #conflict {}
            details #more-sites {
                summary { (language.of("Also for other sites", "同时应用到其他站点")) " " span.chip #more-count hidden {} }
                p.hint { (language.of("They take profiles, week, calendar; line, zone, quotas and volumes stay their own.", "应用档位、每周与日历；专线、时区、配额和卷保持各自设置。")) }
                div.row { input #site-filter type="search" placeholder=(language.of("part of a name", "名称关键字")) aria-label=(language.of("Filter sites", "筛选站点")) maxlength="100";
                    button.plain #tick-same type="button" data-group=(own) { (language.of("All with the same schedule", "时间表相同的站点")) }
                    button.plain #tick-all type="button" { (language.of("All shown", "全选")) } button.plain #tick-none type="button" { (language.of("None", "全不选")) } }
                div.scroll.sites data-part="sites" tabindex="0" role="region" aria-label=(language.of("Sites", "站点")) {
                    @for entry in all.iter().filter(|entry| entry.view.site != known.view.site) {
                        div.site-line data-name=(entry.view.site) data-group=(entry.group) {
                            label.check {
                                input type="checkbox" name="also" value=(entry.view.site) disabled[entry.view.policy.is_none()];
                                (entry.view.site) @if !entry.group.is_empty() { " " span.chip { (entry.group) } }
                            }
                            span {
                                @if let Some(version) = entry.view.policy { span.small.soft { (language.of("version ", "版本 ")) (version) " " } (held(&entry.view, language)) }
                                @else { span.small.soft { (language.of("has no policy yet: make its own first", "还没有策略：请先为其新建")) } }
                            }
                        }
                    }
                    @if all.len() < 2 { p.soft { (language.of("There is no other site.", "没有其他站点。")) } }
                }
            }
            form #save {
                div.field { label for="reason" { (language.of("Reason", "原因")) } input #reason name="reason" required maxlength="500" autocomplete="off" placeholder=(language.of("for whoever asks later", "供日后查询")); }
                (problem_place())
                div.row { button #save-button type="submit" disabled { (language.of("Save", "保存")) } span #save-state.soft {} }
                p.said role="status" {}
            }
        }
    }
}

/// Key, name, profiles, and the rows of the week from Monday on.
type Preset = (&'static str, &'static str, &'static [(&'static str, &'static str)], [&'static str; 7]);

fn presets(language: Language) -> [Preset; 4] {
    let night: &[(&str, &str)] = &[("night", "80 %")];
    let (all, half) = ("00:00 night", "00:00 half");
    [
        (
            "nights-weekends",
            language.of("Nights and weekends", "夜间与周末"),
            night,
            [NIGHT, NIGHT, NIGHT, NIGHT, NIGHT, all, all],
        ),
        ("nights", language.of("Nights only", "仅夜间"), night, [NIGHT; 7]),
        ("half", language.of("Always at half", "全天半速"), &[("half", "50 %")], [half; 7]),
        ("closed", language.of("Closed", "全部关闭"), &[], ["00:00 closed"; 7]),
    ]
}

/// What the script begins with, and the words that it says.
fn given(known: &Known, language: Language) -> Markup {
    let presets: Vec<_> = presets(language)
        .into_iter()
        .map(|(key, name, profiles, rows)| json!({ "key": key, "name": name, "profiles": profiles, "rows": rows }))
        .collect();
    let words: serde_json::Map<String, serde_json::Value> = WORDS
        .iter()
        .map(|(key, english, chinese)| ((*key).to_owned(), language.of(*english, *chinese).into()))
        .collect();
    let given = json!({
        "site": format!("{}/{}", known.view.tenant, known.view.site),
        "tenant": known.view.tenant,
        "name": known.view.site,
        "path": format!("/api/v1/sites/{}/{}/policy", escaped(&known.view.tenant), escaped(&known.view.site)),
        "version": known.row.as_ref().map(|row| row.version),
        "document": known.row.as_ref().map(|row| row.document.as_str()),
        "may": known.may,
        "presets": presets,
        "words": words,
        "days": language.of(["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"], ["周一", "周二", "周三", "周四", "周五", "周六", "周日"]),
        "locale": language.tag(),
    });
    // Within a script element nothing but `<` could end it.
    let text = given.to_string().replace('<', "\\u003c");
    html! { script #given type="application/json" { (PreEscaped(text)) } }
}

/// What the script says: key, English, Chinese. `{}` stands for what is put in, one after the other.
const WORDS: [(&str, &str, &str); 66] = [
    ("closed", "closed", "关闭"),
    ("mixed", "mixed", "混合"),
    ("hours", "{} h", "{} 小时"),
    ("day-line", "{}: open {}, {}", "{}：开放 {}，{}"),
    ("painted", "Painted {} with {}", "已将 {} 绘制为 {}"),
    ("chosen", "{} chosen", "已选择 {}"),
    ("undone", "Taken back", "已撤销"),
    ("redone", "Done again", "已重做"),
    ("all-day", "the whole day", "全天"),
    ("every-day", "every day", "每天"),
    ("checking", "working it out …", "计算中…"),
    ("last-good", "as before the mistake", "为出错前的结果"),
    ("fits", "{} fit: there by {}", "{} 可传完，预计 {}"),
    ("misses", "{} do not fit: there by {}", "{} 无法传完，预计 {}"),
    ("never", "{} do not fit, nor within 60 days", "{} 无法传完，60 天内亦不能"),
    ("nothing-waits", "nothing waits", "没有待传数据"),
    ("unknown-backlog", "unknown: its edge has not told yet", "未知：边缘设备尚未上报"),
    ("room", "room for {}", "可传 {}"),
    (
        "clock-skip",
        "{}: clocks go forward, {}–{} does not occur; the line is open {} min less (−{}).",
        "{}：时钟拨快，{}–{} 不存在；专线少开放 {} 分（−{}）。",
    ),
    (
        "clock-skip-closed",
        "{}: clocks go forward, {}–{} does not occur; the line is closed then.",
        "{}：时钟拨快，{}–{} 不存在；该时段专线本就关闭。",
    ),
    (
        "clock-repeat",
        "{}: clocks go back, {}–{} occurs twice; the line is open {} min more (+{}).",
        "{}：时钟拨慢，{}–{} 出现两次；专线多开放 {} 分（+{}）。",
    ),
    (
        "clock-repeat-closed",
        "{}: clocks go back, {}–{} occurs twice; the line is closed then.",
        "{}：时钟拨慢，{}–{} 出现两次；该时段专线关闭。",
    ),
    ("clock-none", "Clocks do not change in this zone.", "该时区不调整时钟。"),
    ("line", "line {}", "第 {} 行"),
    ("mistake", "This cannot be saved yet", "暂时无法保存"),
    ("no-change", "Nothing is changed.", "没有变更。"),
    ("unsaved", "not saved", "未保存"),
    ("new-policy", "This is the site's first policy.", "这是该站点的第一份策略。"),
    ("needs-owner", "The owner of the line has to agree:", "需要专线负责人同意："),
    ("saved", "Saved as version {}.", "已保存为版本 {}。"),
    ("saved-more", "Saved for {} more sites.", "已应用到另外 {} 个站点。"),
    ("waits-approval", "It waits for approval under number {}.", "已提交审批，编号 {}。"),
    ("saving-others-failed", "This site is saved; the others are not: {}", "本站点已保存，其他站点未保存：{}"),
    (
        "conflict",
        "Somebody saved version {} while you worked. This is what they changed:",
        "您编辑期间他人保存了版本 {}，其变更如下：",
    ),
    ("conflict-same", "Their version says the same as the one that you began with.", "对方的版本与您开始编辑时相同。"),
    ("keep-mine", "Put my schedule into their version", "将我的时间表写入该版本"),
    ("take-theirs", "Drop mine and take theirs", "放弃我的修改"),
    ("drop-sure", "Drop what you changed?", "确定放弃您的修改吗？"),
    ("leave", "There are changes that are not saved.", "有未保存的修改。"),
    ("remove", "Remove", "删除"),
    ("name", "Name", "名称"),
    ("up", "Towards the gateway", "上行（至网关）"),
    ("down", "Towards the site", "下行（至站点）"),
    ("always-closed", "always there: nothing is sent", "始终存在：不传数据"),
    ("exceptions", "Exceptions", "例外"),
    ("blackouts", "Blackouts", "禁传时段"),
    ("days-off", "Days off", "节假日"),
    ("working-days", "Make-up working days", "调休上班日"),
    ("when", "Which dates", "日期"),
    ("hours-of", "Hours", "时段"),
    ("profile", "Profile", "档位"),
    ("kind", "What passes", "禁传范围"),
    ("kind:data", "no data", "不传数据"),
    ("kind:silent", "nothing at all", "完全不通信"),
    ("own-row", "its own", "当天所属星期"),
    ("import-adds", "{} days off and {} make-up working days are new:", "新增 {} 个节假日、{} 个调休上班日："),
    ("import-nothing", "Everything in this file is there already.", "文件内容均已存在。"),
    ("import-take", "Take them over", "导入"),
    ("sites-count", "{} sites", "{} 个站点"),
    ("today", "today", "今天"),
    ("sign:x", "blackout", "禁传时段"),
    ("sign:X", "silent blackout", "静默时段"),
    ("sign:^", "boosted", "提速"),
    ("sign:=", "paused", "暂停"),
    ("sign:#", "held", "冻结"),
    ("sign:/", "does not occur", "不存在的时间"),
];
