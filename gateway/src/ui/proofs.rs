//! A proof on paper, of whatever kind: what was stated, by which key it was signed, and how to verify it.

use super::parts::moment;
use super::{Fault, Shell, Visitor};
use crate::admin::ProofLine;
use crate::api::proofs::shown;
use crate::web::Web;
use axum::Router;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use look::{Language, format};
use maud::{Markup, html};
use serde_json::{Map, Value};
use std::sync::Arc;
use wire::statement::Statement;

pub(super) fn routes() -> Router<Arc<Web>> {
    Router::new().route("/proofs/{number}", get(show))
}

async fn show(State(web): State<Arc<Web>>, visitor: Visitor, Path(number): Path<u64>) -> Result<Response, Fault> {
    let (line, statement) = match shown(&web, &visitor.caller, number).await {
        Ok(shown) => shown,
        Err(problem) => return Err(visitor.fault(problem)),
    };
    let language = visitor.language;
    let title = format!("{} {number}", language.of("Proof", "证明"));
    let content = html! {
        div.head.noprint {
            p { a href="/retention" { (language.of("Back to retention", "返回保留页面")) } }
            div.row {
                button type="button" data-print { (language.of("Print", "打印")) }
                a.button.plain href={ "/api/v1/proofs/" (number) } download={ "proof-" (number) ".json" } { (language.of("Signed file (JSON)", "签名文件（JSON）")) }
            }
        }
        article.paper { (paper(&line, Statement::read(&statement).ok().as_ref(), language)) }
    };
    Ok(Shell { visitor: &visitor, title: &title, place: "/retention", follows: None, content }.render().into_response())
}

/// Proofs in a list.
pub(super) fn list(proofs: &[ProofLine], language: Language) -> Markup {
    html! {
        @if proofs.is_empty() { p { (language.of("There are none yet. The end of a site's decommissioning makes one.", "暂无。站点退役完成后会生成擦除证明。")) } }
        @else {
            table.stack {
                thead { tr {
                    th.number { "#" } th { (language.of("Kind", "类型")) } th { (language.of("About", "对象")) } th { (language.of("Signed", "签署时间")) } th { (language.of("Key", "密钥")) }
                } }
                tbody {
                    @for line in proofs {
                        tr {
                            td.number data-label="#" { a href={ "/proofs/" (line.number) } { (line.number) } }
                            td data-label=(language.of("Kind", "类型")) { (kind(&line.kind, language)) }
                            td data-label=(language.of("About", "对象")) { (about(line, language)) }
                            td data-label=(language.of("Signed", "签署时间")) { (moment(line.made)) }
                            td data-label=(language.of("Key", "密钥")) { code { (line.key) } " " (verified(line, language)) }
                        }
                    }
                }
            }
        }
    }
}

fn verified(line: &ProofLine, language: Language) -> Markup {
    match line.verified {
        true => html! { span.chip.good { (language.of("verified", "已验证")) } },
        false => html! { span.chip.warn { (language.of("another key", "其他密钥")) } },
    }
}

fn kind(kind: &str, language: Language) -> String {
    match kind {
        "erasure" => language.of("Proof of erasure", "擦除证明").into(),
        "rehydration" => language.of("Proof of rehydration", "还原证明").into(),
        other => other.into(),
    }
}

/// What it is about. Statements say it in English; of a rehydration it is told again from its parts.
fn about(line: &ProofLine, language: Language) -> String {
    let parts = (line.kind == "rehydration").then(|| line.subject.split_once(" generation ")).flatten();
    match parts.and_then(|(volume, rest)| Some((volume, rest.split_once(" on ")?))) {
        Some((volume, (number, target))) if language == Language::Chinese => {
            format!("{volume} 版本 {number}，目标 {target}")
        }
        _ => line.subject.clone(),
    }
}

/// How a rehydration was proved: the words that were signed, and what they mean.
fn method(signed: &str, language: Language) -> Markup {
    let share =
        signed.strip_prefix("what was written and ").and_then(|rest| rest.split_once(" % ")).map(|(share, _)| share);
    let told = match (language, share) {
        (Language::English, _) => None,
        (_, Some(share)) => Some(format!("回读写入的部分及随机抽取的其余部分的 {share}%，并与版本比对")),
        (_, None) if signed.starts_with("all of it was read back") => {
            Some("全部从目标回读，其 BLAKE3 即根哈希".to_owned())
        }
        (_, None) if signed.starts_with("what was written was read back") => {
            Some("回读写入的部分，并与版本比对".to_owned())
        }
        _ => None,
    };
    html! {
        @match told { Some(told) => { (told) div.small.soft { (signed) } } None => (signed) }
    }
}

fn paper(line: &ProofLine, statement: Option<&Statement>, language: Language) -> Markup {
    html! {
        h1 { (kind(&line.kind, language)) (language.of(": ", "：")) (about(line, language)) }
        p.soft { (language.of("Proof ", "编号 ")) (line.number) " · " (language.of("tenant ", "租户 ")) (line.tenant) " · " (language.of("signed ", "签署于 ")) (moment(line.made)) }
        @if line.verified {
            p.note.good { (language.of("The signature fits the key by which this gateway signs.", "签名与本网关的签名密钥相符。")) }
        } @else {
            p.note.bad { (language.of("The signature was not made by the present key of this gateway: verify it with the public key of when it was made.", "签名并非由本网关当前的密钥生成：请用当时的公钥验证。")) }
        }
        @match statement {
            None => p { (language.of("The file cannot be read.", "文件无法读取。")) },
            Some(statement) => {
                (object(&statement.body, 2, language))
                h2 { (language.of("How to verify it", "如何验证")) }
                p { (language.of("Save the signed file, and get the gateway's public key by a way that you trust. Then, on any machine:", "保存签名文件，并通过可信途径取得网关公钥，然后在任意机器上执行：")) }
                pre { "sluice-gateway proof verify proof-" (line.number) ".json --key gateway.pem" }
                p.small { (language.of("Public key: ", "公钥：")) code.wrap { (statement.key.hex()) } }
            }
        }
    }
}

/// Plain values as a list of terms; what has parts of its own under a heading.
fn object(fields: &Map<String, Value>, level: u8, language: Language) -> Markup {
    let (parts, plain): (Vec<_>, Vec<_>) = fields.iter().partition(|(_, value)| is_nested(value));
    html! {
        @if !plain.is_empty() {
            dl.facts { @for (name, value) in plain { dt { (word(name, language)) } dd { (drawn(name, value, language)) } } }
        }
        @for (name, value) in parts {
            @if level == 2 { h2 { (word(name, language)) } } @else { h3 { (word(name, language)) } }
            @match value {
                Value::Object(fields) => (object(fields, level + 1, language)),
                Value::Array(items) => (rows(items, level, language)),
                _ => {},
            }
        }
    }
}

fn is_nested(value: &Value) -> bool {
    match value {
        Value::Object(_) => true,
        Value::Array(items) => items.iter().any(|item| item.is_object() || item.is_array()),
        _ => false,
    }
}

/// Objects of plain values as a table; others one after the other.
fn rows(items: &[Value], level: u8, language: Language) -> Markup {
    let objects: Vec<&Map<String, Value>> = items.iter().filter_map(Value::as_object).collect();
    if objects.iter().any(|fields| fields.values().any(is_nested)) {
        return html! { @for fields in objects { (object(fields, level + 1, language)) } };
    }
    let mut columns: Vec<&String> = objects.iter().flat_map(|fields| fields.keys()).collect();
    columns.sort();
    columns.dedup();
    html! {
        table.stack {
            thead { tr { @for name in &columns { th { (word(name, language)) } } } }
            tbody {
                @for fields in objects {
                    tr { @for name in &columns {
                        td data-label=(word(name, language)) { @if let Some(value) = fields.get(*name) { (drawn(name, value, language)) } }
                    } }
                }
            }
        }
    }
}

fn drawn(name: &str, value: &Value, language: Language) -> Markup {
    match value {
        Value::Number(number) if name.ends_with("bytes") || name == "size" => {
            html! { (format::bytes(number.as_u64().unwrap_or(0))) " (" (number) ")" }
        }
        Value::String(text) if name == "method" => method(text, language),
        Value::String(text) if is_digest(text) => html! { code.wrap { (text) } },
        Value::String(text) => html! { (text) },
        Value::Bool(yes) => html! { (if *yes { language.of("yes", "是") } else { language.of("no", "否") }) },
        Value::Array(items) if items.is_empty() => html! { (language.of("none", "无")) },
        Value::Array(items) => {
            html! { ul { @for item in items { li { (drawn(name, item, language)) } } } }
        }
        Value::Null => html! { "–" },
        other => html! { (other) },
    }
}

fn is_digest(text: &str) -> bool {
    text.len() >= 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// A name in a statement, for people; one that is not known stays as it is, without its lines below.
fn word(name: &str, language: Language) -> String {
    let known = [
        ("gateway", "Gateway (fingerprint)", "网关（指纹）"),
        ("software", "Software", "软件版本"),
        ("stated_at", "Stated at", "声明时间"),
        ("site", "Site", "站点"),
        ("tenant", "Tenant", "租户"),
        ("name", "Name", "名称"),
        ("id", "Id", "标识"),
        ("asked", "Asked for", "申请"),
        ("approved", "Agreed to", "同意"),
        ("by", "By", "操作人"),
        ("at", "At", "时间"),
        ("reason", "Reason", "原因"),
        ("due_at", "Due at", "到期时间"),
        ("begun_at", "Begun at", "开始时间"),
        ("generations", "Generations", "版本"),
        ("volumes", "Volumes", "卷"),
        ("lineage", "Lineage", "谱系"),
        ("number", "Number", "编号"),
        ("captured_at", "Captured at", "捕获时间"),
        ("sealed_at", "Sealed at", "封存时间"),
        ("root", "Root (BLAKE3)", "根哈希（BLAKE3）"),
        ("size_bytes", "Size", "大小"),
        ("bytes", "Bytes", "字节数"),
        ("before", "Before", "擦除前"),
        ("packs_of_tenant", "Packs of the tenant", "租户的数据包数"),
        ("bytes_of_tenant", "Bytes of the tenant", "租户的字节数"),
        ("chunks_of_site", "Chunks of the site", "站点的数据块数"),
        ("bytes_of_site", "Bytes of the site", "站点的字节数"),
        ("shared", "Stays, because other sites refer to it", "因其他站点引用而保留"),
        ("chunks", "Chunks", "数据块数"),
        ("erased", "Erased", "擦除"),
        ("packs_removed", "Packs removed", "删除的数据包数"),
        ("bytes_removed", "Bytes removed", "删除的字节数"),
        ("packs_examined", "Packs examined afterwards", "事后检查的数据包数"),
        ("entries_in_use", "Entries in use", "仍在使用的条目数"),
        ("chunks_left_over", "Chunks left over", "残留数据块数"),
        ("records_left_over", "Records left over", "残留记录数"),
        ("packs_unreadable", "Packs that cannot be read", "无法读取的数据包数"),
        ("tenant_key_destroyed", "The tenant's key is destroyed", "租户密钥已销毁"),
        ("method", "Method", "方法"),
        ("asked_by", "Asked for by", "发起人"),
        ("volume", "Volume", "卷"),
        ("generation", "Generation", "版本"),
        ("captured", "Captured", "捕获时间"),
        ("size", "Size", "大小"),
        ("root_blake3", "Root (BLAKE3)", "根哈希（BLAKE3）"),
        ("target", "Target", "目标"),
        ("kind", "Kind", "类型"),
        ("point", "What the target calls it", "目标中的标识"),
        ("begun", "Begun", "开始时间"),
        ("finished", "Finished", "完成时间"),
        ("compared_bytes", "Compared", "比对数据量"),
        ("all_compared", "All of it was compared", "已全部比对"),
        ("repaired", "Had been touched, and was written anew", "曾被改动并已重写"),
        ("run", "Run", "还原编号"),
        ("kept", "Kept", "保留"),
        ("not_covered", "Not covered by this statement", "本声明不涵盖"),
    ];
    let found =
        known.iter().find(|(key, ..)| *key == name).map(|(_, english, chinese)| language.of(*english, *chinese));
    found.map_or_else(|| name.replace('_', " "), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use wire::statement::StatementKey;

    #[test]
    fn a_rehydration_is_told_in_both_languages_with_the_words_that_were_signed() {
        let subject = "bank/b/v generation 7 on vault";
        let line = ProofLine {
            number: 1,
            kind: "rehydration".into(),
            tenant: "bank".into(),
            subject: subject.into(),
            made: dedupe::UnixMillis(1_800_000_000_000),
            key: String::new(),
            verified: true,
        };
        assert_eq!(about(&line, Language::English), subject);
        assert_eq!(about(&line, Language::Chinese), "bank/b/v 版本 7，目标 vault");
        let strange = ProofLine { subject: "something else".into(), ..line };
        assert_eq!(about(&strange, Language::Chinese), "something else");
        let statement = include_str!("../rehydrate/statement.rs");
        for (signed, told) in [
            ("all of it was read back from the target, and its BLAKE3 is the root", "全部"),
            ("what was written was read back from the target and compared with the generation", "写入的部分，"),
            ("what was written and 5 % of the rest, chosen at random, were read back", "5%"),
        ] {
            assert!(statement.contains(&signed.replace("5 %", "{share} %")), "statements say so: {signed}");
            let (english, chinese) = (method(signed, Language::English), method(signed, Language::Chinese));
            assert_eq!(english.into_string(), signed);
            let chinese = chinese.into_string();
            assert!(chinese.contains(told) && chinese.contains(signed), "{chinese}");
        }
    }

    #[test]
    fn whatever_was_stated_is_shown_and_stays_text() {
        let hostile = "<script>alert(1)</script>";
        let body = json!({ "site": hostile, "bytes": 1_000_000, "list": [{ "name": hostile, "deep": [{ "root": "ab".repeat(32) }] }, { "name": "x" }], "plain": ["y"] });
        let key = StatementKey::read(&StatementKey::generate()).unwrap();
        let statement = key.sign("other.kind", body.as_object().unwrap().clone()).unwrap();
        let line = ProofLine {
            number: 1,
            kind: "other.kind".into(),
            tenant: "bank".into(),
            subject: hostile.into(),
            made: dedupe::UnixMillis(1_800_000_000_000),
            key: key.public().to_string(),
            verified: true,
        };
        for language in Language::ALL {
            let drawn = paper(&line, Some(&statement), language).into_string();
            assert!(!drawn.contains("<script"), "{drawn}");
            assert_eq!(drawn.matches("&lt;script&gt;").count(), 3, "subject, site, name");
            for text in ["other.kind", "(1000000)", &"ab".repeat(32), ">y<", &key.public().hex()] {
                assert!(drawn.contains(text), "{text}: {drawn}");
            }
        }
    }
}
