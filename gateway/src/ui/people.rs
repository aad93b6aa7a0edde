//! Accounts and tenants, for administrators; one's own account and API tokens, for everybody.

use super::parts::{moment, only, secret};
use super::shell::{escaped, problem_place, role};
use super::{Fault, Shell, Visitor};
use crate::access::accounts::MAX_TOKEN_DAYS;
use crate::access::{Right, Role, Scope};
use crate::admin::{AccountLine, TokenLine};
use crate::api::people::{account_lines, token_lines};
use crate::api::system::{TenantLine, tenant_lines};
use crate::web::Web;
use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use dedupe::UnixMillis;
use look::Language;
use maud::{Markup, html};
use std::sync::Arc;

pub(super) fn routes() -> Router<Arc<Web>> {
    Router::new().route("/users", get(users)).route("/me", get(own))
}

async fn users(State(web): State<Arc<Web>>, visitor: Visitor) -> Result<Response, Fault> {
    let (language, title) = (visitor.language, visitor.language.of("Users", "用户"));
    if !visitor.has(Right::Administer) {
        let content = html! {
            h1 { (title) }
            (only(language, "Accounts are made and changed by administrators. Your own account is behind your name, above.", "账号由管理员创建和修改。点击页面上方您的账号名可查看本人账号。"))
        };
        return Ok(Shell { visitor: &visitor, title, place: "/users", follows: None, content }
            .render()
            .into_response());
    }
    let accounts = match account_lines(&web, &visitor.caller).await {
        Ok(accounts) => accounts,
        Err(problem) => return Err(visitor.fault(problem)),
    };
    let tenants = match tenant_lines(&web, &visitor.caller).await {
        Ok(tenants) => tenants,
        Err(problem) => return Err(visitor.fault(problem)),
    };
    let whole = visitor.caller.scope == Scope::Whole;
    let content = html! {
        div.head { div { h1 { (title) } p.soft { (language.of("Who may do what. A role holds for one tenant, or for the whole gateway.", "谁可以做什么。角色可限定于一个租户，或适用于整个网关。")) } } }
        section.card { (account_table(&accounts, &visitor)) }
        div.two {
            (new_account(&tenants, &visitor))
            (roles(language))
        }
        section.card { (tenant_list(&tenants, whole, language)) }
    };
    Ok(Shell { visitor: &visitor, title, place: "/users", follows: None, content }.render().into_response())
}

fn account_table(accounts: &[AccountLine], visitor: &Visitor) -> Markup {
    let language = visitor.language;
    html! {
        h2 { (language.of("Accounts", "账号")) }
        div.scroll tabindex="0" role="region" aria-label=(language.of("Accounts", "账号")) {
            table.stack {
                thead { tr {
                    th { (language.of("Name", "账号名")) } th { (language.of("Role", "角色")) } th { (language.of("For", "范围")) }
                    th { (language.of("State", "状态")) } th { (language.of("Signed in last", "最近登录")) } th { (language.of("Change", "管理")) }
                } }
                tbody { @for account in accounts { (account_row(account, visitor)) } }
            }
        }
    }
}

fn account_row(account: &AccountLine, visitor: &Visitor) -> Markup {
    let language = visitor.language;
    let (class, state) = match (account.disabled, account.must_change) {
        (true, _) => ("bad", language.of("disabled", "已停用")),
        (false, true) => ("warn", language.of("has to change the password", "须修改密码")),
        (false, false) => ("good", language.of("may sign in", "可登录")),
    };
    html! {
        tr {
            th scope="row" { (account.name) @if account.name == visitor.caller.name { " " span.chip { (language.of("you", "本人")) } } }
            td data-label=(language.of("Role", "角色")) { (role(account.role, language)) }
            td data-label=(language.of("For", "范围")) { @match &account.tenant { Some(tenant) => { (tenant) } None => { (language.of("the whole gateway", "整个网关")) } } }
            td data-label=(language.of("State", "状态")) { span.chip.(class) { (state) } }
            td data-label=(language.of("Signed in last", "最近登录")) { @match account.signed_in { Some(at) => { (moment(at)) } None => { (language.of("never", "从未")) } } }
            td {
                details {
                    summary { (language.of("Change", "管理")) span.sr { " " (account.name) } }
                    @if account.name == visitor.caller.name {
                        p.small { (language.of("This is your own account: change its password behind your name, above. Who changes the own role is signed out.", "这是您本人的账号，请通过页面上方的账号名修改密码。修改本人角色后需重新登录。")) }
                    }
                    (account_forms(account, language))
                }
            }
        }
    }
}

fn account_forms(account: &AccountLine, language: Language) -> Markup {
    let api = format!("/api/v1/accounts/{}", escaped(&account.name));
    let id = |what: &str| format!("{what}-{}", account.name);
    html! {
        form data-api=(api) data-method="PATCH" {
            label.sr for=(id("role")) { (language.of("Role", "角色")) }
            div.row {
                select id=(id("role")) name="role" {
                    @for known in Role::ALL { option value=(known.word()) selected[known == account.role] { (role(known, language)) } }
                }
                button.plain type="submit" { (language.of("Change the role", "修改角色")) }
            }
            (problem_place())
        }
        form data-api=(api) data-method="PATCH" {
            input type="checkbox" name="disabled" data-type="bool" hidden checked[!account.disabled];
            button.plain type="submit" { @if account.disabled { (language.of("Enable", "启用")) } @else { (language.of("Disable", "停用")) } }
            (problem_place())
        }
        form data-api={ (api) "/password" } data-empty data-then="secret"
            data-confirm=(language.of(format!("Give {} a new password? The present one is good no more.", account.name), format!("确定为 {} 重置密码？当前密码将失效。", account.name))) {
            button.plain type="submit" { (language.of("New password", "重置密码")) }
            (problem_place())
            (secret(&id("secret"), &format!("{}.txt", account.name), (language.of("New password, to be changed at the first sign-in", "新密码（首次登录须修改）"), html! {}), language))
        }
        form data-api=(api) data-method="DELETE" data-empty
            data-confirm=(language.of(format!("Remove {} with all API tokens?", account.name), format!("确定删除 {} 及其全部 API 令牌？", account.name))) {
            button.danger type="submit" { (language.of("Remove", "删除")) }
            (problem_place())
        }
    }
}

fn new_account(tenants: &[TenantLine], visitor: &Visitor) -> Markup {
    let language = visitor.language;
    let whole = visitor.caller.scope == Scope::Whole;
    html! {
        section.card {
            h2 { (language.of("Make an account", "创建账号")) }
            form data-api="/api/v1/accounts" data-then="secret" data-hides {
                div data-before {
                    div.fields {
                        div.field {
                            label for="new-name" { (language.of("Name", "账号名")) }
                            input #new-name name="name" required maxlength="100" autocomplete="off" autocapitalize="none" spellcheck="false" aria-describedby="new-name-hint";
                            p.hint #new-name-hint { (language.of("Letters, digits, - _ and .", "字母、数字、- _ .")) }
                        }
                        div.field {
                            label for="new-role" { (language.of("Role", "角色")) }
                            select #new-role name="role" { @for known in Role::ALL { option value=(known.word()) { (role(known, language)) } } }
                        }
                        div.field {
                            label for="new-tenant" { (language.of("For", "范围")) }
                            select #new-tenant name="tenant" {
                                @if whole { option value="" { (language.of("the whole gateway", "整个网关")) } }
                                @for tenant in tenants { option value=(tenant.name) { (tenant.name) } }
                            }
                        }
                    }
                    (problem_place())
                    button type="submit" { (language.of("Make it", "创建")) }
                }
                (secret("new-secret", "password.txt", (language.of("The account is made. Its password, to be changed at the first sign-in:", "账号已创建。初始密码（首次登录须修改）："), html! { p { a href="/users" { (language.of("Done", "完成")) } } }), language))
            }
        }
    }
}

fn roles(language: Language) -> Markup {
    html! {
        section.card {
            h2 { (language.of("Roles", "角色说明")) }
            dl.facts {
                dt { (role(Role::Viewer, language)) } dd { (language.of("looks, and changes nothing", "只能查看")) }
                dt { (role(Role::Operator, language)) } dd { (language.of("steers lines and volumes, within what was agreed", "在约定范围内管理专线和卷")) }
                dt { (role(Role::Approver, language)) } dd { (language.of("agrees for the owner of a line; steers nothing", "代表专线负责人审批，不做操作")) }
                dt { (role(Role::Administrator, language)) } dd { (language.of("what an operator may, and accounts, tenants, sites; agrees to nothing", "操作员权限，并管理账号、租户和站点；不能审批")) }
            }
            p.hint { (language.of("Where a tenant has an approver, changes that go beyond what was agreed wait for one.", "租户设有审批人时，超出约定的变更须经其审批。")) }
        }
    }
}

fn tenant_list(tenants: &[TenantLine], whole: bool, language: Language) -> Markup {
    html! {
        h2 { (language.of("Tenants", "租户")) }
        p.small.soft { (language.of("Two tenants share the gateway and nothing else: no key, no store, no deduplication.", "不同租户仅共用网关，密钥、存储和去重均相互独立。")) }
        @if tenants.is_empty() { p { (language.of("There is none yet: make one here, or with the first site.", "还没有租户：可在此创建，或在添加首个站点时创建。")) } }
        @else {
            table.stack {
                thead { tr { th { (language.of("Name", "名称")) } th.number { (language.of("Sites", "站点数")) } th { (language.of("Made", "创建时间")) } } }
                tbody {
                    @for tenant in tenants {
                        tr {
                            th scope="row" { a href={ "/?tenant=" (escaped(&tenant.name)) } { (tenant.name) } }
                            td.number data-label=(language.of("Sites", "站点数")) { (tenant.sites) }
                            td data-label=(language.of("Made", "创建时间")) { (moment(UnixMillis(tenant.created * 1000))) }
                        }
                    }
                }
            }
        }
        @if whole {
            form data-api="/api/v1/tenants" {
                label for="tenant-name" { (language.of("A further tenant", "新租户")) }
                div.row {
                    input #tenant-name name="name" required maxlength="100" autocapitalize="none" spellcheck="false";
                    button.plain type="submit" { (language.of("Make it", "创建")) }
                }
                (problem_place())
            }
        }
    }
}

// ---- one's own account

async fn own(State(web): State<Arc<Web>>, visitor: Visitor) -> Result<Response, Fault> {
    let (language, caller) = (visitor.language, &visitor.caller);
    let tokens = match token_lines(&web, caller, caller.name.clone()).await {
        Ok(tokens) => tokens,
        Err(problem) => return Err(visitor.fault(problem)),
    };
    let tenants = match tenant_lines(&web, caller).await {
        Ok(tenants) => tenants,
        Err(problem) => return Err(visitor.fault(problem)),
    };
    let whose = match caller.scope {
        Scope::Whole => language.of("the whole gateway", "整个网关").to_owned(),
        Scope::Tenant(_) => tenants.first().map(|tenant| tenant.name.clone()).unwrap_or_default(),
    };
    let title = language.of("Your account", "我的账号");
    let content = html! {
        div.head {
            h1 { (caller.name) }
            a.button.plain href="/password" { (language.of("Change the password", "修改密码")) }
        }
        section.card {
            dl.facts {
                dt { (language.of("Role", "角色")) } dd { (role(caller.role, language)) }
                dt { (language.of("For", "范围")) } dd { (whose) }
                dt { (language.of("A session ends", "会话有效期")) } dd { (language.of("after 30 minutes without use, and after 12 hours", "30 分钟无操作或登录满 12 小时后失效")) }
            }
        }
        section.card { (token_table(&tokens, &visitor)) }
        (new_token(&visitor))
    };
    Ok(Shell { visitor: &visitor, title, place: "/me", follows: None, content }.render().into_response())
}

fn token_table(tokens: &[TokenLine], visitor: &Visitor) -> Markup {
    let language = visitor.language;
    html! {
        h2 { (language.of("API tokens", "API 令牌")) }
        p.small.soft { (language.of("For programs that ask the gateway in your name: monitoring, scripts.", "供程序以您的名义访问网关，例如监控或脚本。")) " " a href="/api/v1/openapi.json" { (language.of("What the API knows (OpenAPI)", "API 说明（OpenAPI）")) } }
        @if tokens.is_empty() { p { (language.of("You have none.", "暂无。")) } }
        @else {
            div.scroll tabindex="0" role="region" aria-label=(language.of("API tokens", "API 令牌")) {
                table.stack {
                    thead { tr {
                        th { (language.of("For what", "用途")) } th { (language.of("Role", "角色")) } th { (language.of("Good until", "有效期至")) }
                        th { (language.of("Used last", "最近使用")) } th { span.sr { (language.of("Actions", "操作")) } }
                    } }
                    tbody {
                        @for token in tokens {
                            tr {
                                th scope="row" { (token.label) " " code.small.soft { (token.id) } }
                                td data-label=(language.of("Role", "角色")) { (role(token.role, language)) }
                                td data-label=(language.of("Good until", "有效期至")) { (moment(token.valid_until)) }
                                td data-label=(language.of("Used last", "最近使用")) { @match token.used { Some(at) => { (moment(at)) } None => { (language.of("never", "从未")) } } }
                                td {
                                    form data-api={ "/api/v1/accounts/" (escaped(&visitor.caller.name)) "/tokens/" (token.id) } data-method="DELETE" data-empty
                                        data-confirm=(language.of("Take this token back? Whatever uses it is refused at once.", "确定收回此令牌？使用它的程序将立即被拒绝。")) {
                                        button.plain type="submit" { (language.of("Take back", "收回")) }
                                        (problem_place())
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn new_token(visitor: &Visitor) -> Markup {
    let language = visitor.language;
    html! {
        section.card {
            h2 { (language.of("Make an API token", "创建 API 令牌")) }
            form data-api={ "/api/v1/accounts/" (escaped(&visitor.caller.name)) "/tokens" } data-then="secret" data-hides {
                div data-before {
                    div.fields {
                        div.field {
                            label for="label" { (language.of("What it is for", "用途")) }
                            input #label name="label" required maxlength="100" autocomplete="off";
                        }
                        div.field {
                            label for="token-role" { (language.of("Role, no more than yours", "角色（不超过您的权限）")) }
                            select #token-role name="role" {
                                @for known in Role::ALL { @if visitor.caller.role.covers(known) { option value=(known.word()) { (role(known, language)) } } }
                            }
                        }
                        div.field {
                            label for="days" { (language.of("Days that it is good for", "有效天数")) }
                            input #days name="days" type="number" data-type="number" required min="1" max=(MAX_TOKEN_DAYS) value="90";
                        }
                    }
                    (problem_place())
                    button type="submit" { (language.of("Make it", "创建")) }
                }
                (secret("token-secret", "token.txt", (language.of("Your token:", "您的令牌："), html! { p { a href="/me" { (language.of("Done", "完成")) } } }), language))
            }
        }
    }
}
