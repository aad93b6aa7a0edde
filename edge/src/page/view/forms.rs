//! The parts that people fill in: pause and boost, volumes, enrolment.

use super::{Inside, detail_of};
use crate::enrol::Step;
use crate::page::facts::Facts;
use crate::page::work::Enrolling;
use crate::page::{asks, routes};
use look::format;
use maud::{Markup, html};

impl Inside<'_> {
    pub(super) fn bend(&self, facts: &Facts) -> Markup {
        let language = self.language;
        html! {
            section #pause .card {
                h2 { (language.of("Pause", "暂停")) }
                (self.notice_at("pause"))
                @if let Some(bent) = &facts.bent {
                    div.note.warn {
                        p.big { (match &bent.boost {
                            None => language.of("Paused at this box", "已在本设备暂停"),
                            Some(_) => language.of("Boosted at this box", "已在本设备提速"),
                        })
                            @if let Some(rate) = bent.boost.and_then(|rate| rate.limit()) { " " (format::rate(rate.bits(), language)) }
                            " " (language.of(
                                format!("until {}.", facts.clock.moment(bent.until.as_second(), language)),
                                format!("至 {}。", facts.clock.moment(bent.until.as_second(), language)),
                            ))
                        }
                        p { (bent.by) ": " (bent.why) }
                        form method="post" action="/resume" {
                            (self.csrf())
                            button type="submit" { (language.of("End it now", "立即结束")) }
                        }
                    }
                } @else {
                    p { (language.of(
                        "Nothing is sent until then; captures go on. It ends by itself.",
                        "期间不发送数据，捕获照常进行。到时自动恢复。",
                    )) }
                }
                @if facts.bent.is_some() {
                    details { summary { (language.of("Pause anew", "重新暂停")) } (self.pause_form(facts)) }
                } @else { (self.pause_form(facts)) }
                @if let Some(limit) = facts.boost_limit.and_then(|limit| limit.limit()) {
                    details {
                        summary { (language.of("Send faster for a while", "临时提速")) }
                        (self.boost_form(limit.bits()))
                    }
                }
            }
        }
    }

    fn pause_form(&self, facts: &Facts) -> Markup {
        let language = self.language;
        let morning = asks::next_morning(facts.clock.now, &facts.clock.zone);
        let morning = morning.map(|at| facts.clock.moment(at.as_second(), language));
        let choice = |value: &'static str, text: String, checked: bool| {
            html! {
                label.choice { input type="radio" name="lasts" value=(value) checked[checked]; (text) }
            }
        };
        html! {
            form method="post" action="/pause" {
                (self.csrf())
                fieldset.choices {
                    legend { (language.of("For how long", "时长")) }
                    (choice("30m", language.of("30 minutes", "30 分钟").into(), true))
                    (choice("2h", language.of("2 hours", "2 小时").into(), false))
                    @if let Some(morning) = morning {
                        (choice("morning", language.of(format!("until {morning}"), format!("至 {morning}")), false))
                    }
                    label.choice {
                        input type="radio" name="lasts" value="own";
                        (language.of("until", "至"))
                        input type="time" name="until" aria-label=(language.of("Until this time of the site's clock", "至网点时间"));
                    }
                }
                (self.who_and_why())
                button type="submit" { (language.of("Pause", "暂停")) }
            }
        }
    }

    fn boost_form(&self, limit: u64) -> Markup {
        let language = self.language;
        html! {
            form method="post" action="/boost" {
                (self.csrf())
                div.fields {
                    div.field {
                        label for="boost-rate" { (language.of("Rate", "速率")) }
                        select #boost-rate name="rate" {
                            @for quarter in [4, 3, 2, 1] {
                                option value=(limit / 4 * quarter) { (format::rate(limit / 4 * quarter, language)) }
                            }
                        }
                    }
                    div.field {
                        label for="boost-lasts" { (language.of("For how long", "时长")) }
                        select #boost-lasts name="lasts" {
                            @for (value, minutes) in [("30m", 30), ("1h", 60), ("2h", 120), ("4h", 240)] {
                                option value=(value) { (format::duration(minutes * 60, language)) }
                            }
                        }
                    }
                }
                (self.who_and_why())
                button type="submit" { (language.of("Send faster", "提速")) }
            }
        }
    }

    fn who_and_why(&self) -> Markup {
        let language = self.language;
        html! {
            div.fields {
                label.field { (language.of("Your name", "您的姓名")) input name="actor" required maxlength=(asks::MOST_NAME) autocomplete="name"; }
                label.field { (language.of("Reason", "原因")) input name="reason" required maxlength=(asks::MOST_REASON) autocomplete="off"; }
            }
        }
    }

    pub(super) fn first_steps(&self, facts: &Facts) -> Markup {
        let language = self.language;
        html! {
            section #volumes .card {
                h2 { (language.of("First step: choose a volume", "第一步：选择要复制的卷")) }
                p { (language.of(
                    "A volume is a disk or an image file that is brought to the gateway. Its first capture begins as soon as it is added.",
                    "卷是要复制到网关的磁盘或镜像文件。添加后立即开始首次捕获。",
                )) }
                (self.notice_at("volumes"))
                (self.add_volume(facts))
            }
        }
    }

    pub(super) fn add_volume(&self, facts: &Facts) -> Markup {
        let language = self.language;
        html! {
            form method="post" action="/volumes" {
                (self.csrf())
                div.field {
                    label for="volume-name" { (language.of("Name at this site", "卷名称")) }
                    input #volume-name name="name" required maxlength="64" pattern="[A-Za-z0-9][A-Za-z0-9._\\-]*" autocomplete="off" spellcheck="false" aria-describedby="volume-name-hint";
                    p #volume-name-hint .hint { (language.of("Letters, digits, dot, dash and underscore; as in `fileserver`.", "可用字母、数字、点、横线和下划线，例如 fileserver。")) }
                }
                fieldset.choices {
                    legend { (language.of("What is replicated", "复制内容")) }
                    @for disk in &facts.disks {
                        label.choice.(if disk.is_part { "part" } else { "whole" }) {
                            input type="radio" name="source" value={ "block:" (disk.path.display()) } required;
                            span {
                                code { (disk.path.display()) } " " b { (format::bytes(disk.size)) } " " (disk.model)
                                @if let Some(at) = &disk.mounted {
                                    " " span.chip.warn { (language.of(format!("mounted here at {at}"), format!("已挂载在本机 {at}"))) }
                                }
                            }
                        }
                    }
                    label.choice {
                        input type="radio" name="source" value="file" required checked[facts.disks.is_empty()];
                        span { (language.of("an image file:", "镜像文件：")) }
                    }
                    input name="path" placeholder="/srv/images/disk.img" autocomplete="off" spellcheck="false" aria-label=(language.of("Path of the image file", "镜像文件路径"));
                }
                div.field { label.check {
                    input type="checkbox" name="list" value="yes";
                    (language.of("Go on where sectors cannot be read: they become zero and are listed", "遇到无法读取的扇区时继续：以零填充并记录"))
                } }
                button type="submit" { (language.of("Add and capture", "添加并捕获")) }
            }
        }
    }

    /// Enrolment. `first`: the box was never enrolled, and this is all that its page shows.
    pub(super) fn enrol(&self, facts: &Facts, first: bool) -> Markup {
        let language = self.language;
        let step = |done: bool, now: bool, text: String| {
            html! {
                li.(if done { "done" } else if now { "at" } else { "ahead" }) aria-current=[now.then_some("step")] { (text) }
            }
        };
        let running = matches!(facts.enrolling, Enrolling::Running { .. });
        let is_busy = running || (first && matches!(facts.enrolling, Enrolling::Done { .. }));
        html! {
            section #enrol .card[first] {
                @if first { h1 { (language.of("Enrol this box", "注册本设备")) } } @else { h3 { (language.of("Enrol again", "重新注册")) } }
                (self.notice_at("enrol"))
                div data-live="enrol" data-working[running] {
                    @match &facts.enrolling {
                        Enrolling::Idle => {},
                        Enrolling::Running { step: at } => ol.steps role="status" {
                            @let order = match at { Step::Key => 0, Step::Asking { .. } => 1, Step::Storing => 2 };
                            (step(order > 0, order == 0, language.of("Make this box's key", "生成本设备的密钥").into()))
                            @let asking = match at {
                                Step::Asking { address } => language.of(format!("Ask the gateway at {address}"), format!("连接网关 {address}")),
                                _ => language.of("Ask the gateway", "连接网关").into(),
                            };
                            (step(order > 1, order == 1, asking))
                            (step(false, order == 2, language.of("Keep what it gave", "保存网关签发的证书").into()))
                            (step(false, false, language.of("Connect", "建立会话").into()))
                        },
                        Enrolling::Done { site } => div.note.good role="status" {
                            p { (language.of(format!("Enrolled as “{site}”; connecting."), format!("已注册为“{site}”，正在连接。"))) }
                        },
                        Enrolling::Failed { why, detail } => div.note.bad role="alert" {
                            p { (why.of(language)) }
                            (detail_of(detail))
                        },
                    }
                }
                @if !is_busy {
                    p { (language.of(
                        "Paste the token that the operators made for this site. It works once and for a limited time.",
                        "请粘贴中心运维人员为本网点生成的令牌。令牌只能使用一次，且有有效期。",
                    )) }
                    form method="post" action="/enrol" {
                        (self.csrf())
                        div.field {
                            label for="token" { (language.of("Token", "令牌")) }
                            textarea #token name="token" required maxlength=(routes::MOST_TOKEN) rows="5" autocomplete="off" spellcheck="false" autofocus[first] {}
                        }
                        button type="submit" { (language.of("Enrol", "注册")) }
                    }
                }
            }
        }
    }
}
