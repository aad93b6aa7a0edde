//! Signing in, the first account, one's own password.

use super::shell::{outside, path_of, problem_place};
use crate::access::password;
use crate::api::signed_in;
use crate::web::Web;
use axum::Router;
use axum::extract::{Query, Request, State};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use look::Language;
use maud::{Markup, html};
use serde::Deserialize;
use std::sync::Arc;

pub(super) fn routes() -> Router<Arc<Web>> {
    Router::new()
        .route("/sign-in", get(sign_in))
        .route("/setup", get(set_up))
        .route("/password", get(own_password))
        .route("/ca.crt", get(authority))
}

#[derive(Deserialize)]
struct Back {
    #[serde(default)]
    back: String,
}

async fn sign_in(State(web): State<Arc<Web>>, language: Language, Query(Back { back }): Query<Back>) -> Response {
    if web.needs_setup() {
        return Redirect::to("/setup").into_response();
    }
    let back = look::serve::local_path(&back);
    let content = html! {
        div.card.narrow {
            h1 { (language.of("Sign in", "登录")) }
            form data-api="/api/v1/session" data-then=(back) {
                (name_field(language))
                div.field {
                    label for="password" { (language.of("Password", "密码")) }
                    input #password name="password" type="password" autocomplete="current-password" required maxlength="512";
                }
                (problem_place())
                button type="submit" { (language.of("Sign in", "登录")) }
            }
            details {
                summary { (language.of("I have no account, or forgot the password", "没有账号或忘记密码")) }
                p.small { (language.of("An administrator makes accounts and new passwords under Users. On the gateway's own machine:", "管理员可在“用户”页创建账号或重置密码；也可在网关主机上执行：")) }
                pre { "sluice-gateway user reset-password NAME" }
            }
        }
    };
    outside(language, language.of("Sign in", "登录"), "/sign-in", None, content).into_response()
}

async fn set_up(State(web): State<Arc<Web>>, language: Language) -> Response {
    if !web.needs_setup() {
        return Redirect::to("/").into_response();
    }
    let file = web.state.folder().join(crate::web::SETUP_FILE);
    let content = html! {
        div.card.narrow {
            h1 { (language.of("Welcome to Sluice", "欢迎使用 Sluice")) }
            p { (language.of("Nobody has an account yet. Make the first one: an administrator of the whole gateway.", "目前还没有账号。请创建第一个账号，即整个网关的管理员。")) }
            form data-api="/api/v1/setup" data-then="/welcome" {
                div.field {
                    label for="code" { (language.of("Set-up code", "初始化码")) }
                    input #code name="code" required autocomplete="off" spellcheck="false" autocapitalize="none" maxlength="64" aria-describedby="code-hint";
                    p.hint #code-hint { (language.of("It stands in this file on the gateway:", "请在网关主机上查看此文件：")) br; code { (file.display()) } }
                }
                (name_field(language))
                (new_password_field(language, "password"))
                (problem_place())
                button type="submit" { (language.of("Make the account", "创建账号")) }
            }
        }
    };
    outside(language, language.of("Welcome", "欢迎"), "/setup", None, content).into_response()
}

/// One's own password: also for whoever has to change it before anything else.
async fn own_password(State(web): State<Arc<Web>>, language: Language, request: Request) -> Response {
    let (parts, _) = request.into_parts();
    let Some((signed, _)) = signed_in(&parts.headers, &web) else {
        return Redirect::to("/sign-in?back=%2Fpassword").into_response();
    };
    let why = signed.must_change.then(|| {
        language
            .of("This password was given to you. Choose one of your own.", "当前密码由他人设置，请改为您自己的密码。")
    });
    let content = html! {
        div.card.narrow {
            h1 { (language.of("Change the password", "修改密码")) }
            @if let Some(why) = why { p.note.warn { (why) } }
            form data-api="/api/v1/session/password" data-method="PUT" data-then="/" {
                div.field {
                    label for="present" { (language.of("Present password", "当前密码")) }
                    input #present name="present" type="password" autocomplete="current-password" required maxlength="512";
                }
                (new_password_field(language, "new"))
                (problem_place())
                button type="submit" { (language.of("Change it", "修改")) }
            }
        }
    };
    let title = language.of("Change the password", "修改密码");
    outside(language, title, &path_of(&parts), Some(&signed.csrf), content).into_response()
}

/// The certificate of the authority, for browsers to trust.
async fn authority(State(web): State<Arc<Web>>) -> Response {
    let encoded = data_encoding::BASE64.encode(&web.state.authorities().signing_certificate());
    let lines: Vec<&str> = encoded.as_bytes().chunks(64).filter_map(|line| std::str::from_utf8(line).ok()).collect();
    let pem = format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"));
    let name = "attachment; filename=\"sluice-ca.crt\"";
    ([("content-type", "application/x-x509-ca-cert"), ("content-disposition", name)], pem).into_response()
}

fn name_field(language: Language) -> Markup {
    html! {
        div.field {
            label for="name" { (language.of("Name", "账号名")) }
            input #name name="name" autocomplete="username" autocapitalize="none" spellcheck="false" required maxlength="100";
        }
    }
}

fn new_password_field(language: Language, name: &str) -> Markup {
    let hint = language.of(
        format!("At least {} characters. A sentence is easy to keep in mind.", password::LEAST),
        format!("至少 {} 个字符，建议使用一句便于记忆的话。", password::LEAST),
    );
    html! {
        div.field {
            label for="new-password" { (language.of("New password", "新密码")) }
            input #new-password name=(name) type="password" autocomplete="new-password" required
                minlength=(password::LEAST) maxlength=(password::MOST) aria-describedby="password-hint";
            p.hint #password-hint { (hint) }
        }
    }
}
