//! The kinds of targets, as people set them up: one entry each, from which its form is made.

use look::Language;
use maud::{Markup, html};

/// A kind.
pub(super) struct Kind {
    /// Its word in settings.
    word: &'static str,
    /// What people call it.
    name: [&'static str; 2],
    /// What it is good for.
    hint: [&'static str; 2],
    /// What has to be said of it.
    fields: &'static [Field],
    /// Whether it asks a service that wants credentials.
    service: bool,
}

/// One thing that has to be said.
struct Field {
    /// Its name in settings.
    name: &'static str,
    label: [&'static str; 2],
    example: &'static str,
    required: bool,
    input: Input,
}

/// What a field takes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Input {
    Text,
    Number,
    Switch,
}

impl Field {
    /// A text that must be there.
    const fn text(name: &'static str, label: [&'static str; 2], example: &'static str) -> Field {
        Field { name, label, example, required: true, input: Input::Text }
    }

    /// A text that may be left out.
    const fn maybe(name: &'static str, label: [&'static str; 2], example: &'static str) -> Field {
        Field { required: false, ..Field::text(name, label, example) }
    }
}

/// All kinds, those that need no service first.
pub(super) static KINDS: &[Kind] = &[
    Kind {
        word: "raw",
        name: ["Folder of raw files", "原始文件目录"],
        hint: [
            "A sparse file for each volume, below a folder of the gateway: on a disk, an NFS or a SAN mount. Holds the latest generation of each.",
            "在网关的目录下为每个卷保存一个稀疏文件，可位于本地磁盘、NFS 或 SAN 挂载点。每个卷保存最新版本。",
        ],
        fields: &[Field::text("folder", ["Folder on the gateway", "网关上的目录"], "/srv/targets/vault")],
        service: false,
    },
    Kind {
        word: "device",
        name: ["Block device", "块设备"],
        hint: [
            "One block device of the gateway, for one volume. What it holds is written over.",
            "网关上的一个块设备，用于一个卷。设备原有内容会被覆盖。",
        ],
        fields: &[Field::text("path", ["Device on the gateway", "网关上的设备"], "/srv/targets/disk1")],
        service: false,
    },
    Kind {
        word: "qcow2",
        name: ["Folder of qcow2 images", "qcow2 镜像目录"],
        hint: [
            "A chain of qcow2 images for each volume, below a folder of the gateway: one image for each generation, each of them startable by QEMU.",
            "在网关的目录下为每个卷保存一组 qcow2 镜像链，每个版本一个镜像，均可由 QEMU 直接启动。",
        ],
        fields: &[Field::text("folder", ["Folder on the gateway", "网关上的目录"], "/srv/targets/images")],
        service: false,
    },
    Kind {
        word: "openstack",
        name: ["OpenStack", "OpenStack"],
        hint: [
            "A Cinder volume for each volume, with a snapshot for each generation, in a project of a cloud; or a Glance image for each generation.",
            "在云项目中为每个卷保存一个 Cinder 卷，每个版本一个快照；或为每个版本保存一个 Glance 镜像。",
        ],
        fields: &[
            Field::maybe("region", ["Region", "区域"], "RegionOne"),
            Field::maybe("volume_type", ["Volume type", "卷类型"], "nfs"),
            Field::maybe("availability_zone", ["Availability zone", "可用区"], "nova"),
            Field { input: Input::Switch, ..Field::maybe("as_image", ["Glance images", "Glance 镜像"], "") },
            Field::maybe(
                "staging",
                ["For images: folder for putting one together", "镜像的暂存目录"],
                "/srv/targets/staging",
            ),
        ],
        service: true,
    },
    Kind {
        word: "azure",
        name: ["Azure page blobs", "Azure 页 Blob"],
        hint: [
            "A page blob for each volume in a container of a storage account, with a snapshot for each generation.",
            "在存储账户的容器中为每个卷保存一个页 Blob，每个版本一个快照。",
        ],
        fields: &[
            Field::text("container", ["Container", "容器"], "sluice"),
            Field::maybe("account", ["Storage account", "存储账户"], "bankcopies"),
            Field::maybe("prefix", ["Names begin with", "名称前缀"], "bank/"),
            Field::maybe(
                "endpoint",
                ["Address of the blob service", "Blob 服务地址"],
                "https://bankcopies.blob.core.chinacloudapi.cn",
            ),
        ],
        service: true,
    },
    Kind {
        word: "ebs",
        name: ["AWS EBS snapshots", "AWS EBS 快照"],
        hint: [
            "An EBS snapshot for each generation, from which volumes and machines are made. No machine runs for it.",
            "每个版本一个 EBS 快照，可由此创建卷和实例，无须运行任何实例。",
        ],
        fields: &[
            Field::maybe("region", ["Region", "区域"], "eu-central-1"),
            Field {
                input: Input::Switch, ..Field::maybe("encrypted", ["Encrypt first copies", "加密首个副本"], "")
            },
            Field::maybe("kms_key", ["ARN of a KMS key", "KMS 密钥 ARN"], "arn:aws:kms:…"),
            Field::maybe("ebs_endpoint", ["Another address of EBS", "其他 EBS 地址"], "https://…"),
            Field::maybe("ec2_endpoint", ["Another address of EC2", "其他 EC2 地址"], "https://…"),
        ],
        service: true,
    },
    Kind {
        word: "s3",
        name: ["S3-compatible store", "S3 兼容存储"],
        hint: [
            "An object for each generation in a bucket. To be kept or copied from; machines do not start from it.",
            "在存储桶中为每个版本保存一个对象，用于保存或复制，不能直接启动。",
        ],
        fields: &[
            Field::text("bucket", ["Bucket", "存储桶"], "bank-copies"),
            Field::maybe("endpoint", ["Address of the store", "存储地址"], "https://s3.example.org"),
            Field::maybe("region", ["Region", "区域"], "eu-central-1"),
            Field::maybe("prefix", ["Names begin with", "名称前缀"], "sluice"),
            Field {
                input: Input::Number, ..Field::maybe("part_mib", ["MiB of a part", "分段大小（MiB）"], "64")
            },
        ],
        service: true,
    },
];

/// What people call a kind; its word where it is not known here.
pub(super) fn name(word: &str, language: Language) -> String {
    let known = KINDS.iter().find(|kind| kind.word == word);
    known.map_or_else(|| word.to_owned(), |kind| of(&kind.name, language).to_owned())
}

fn of(texts: &[&'static str; 2], language: Language) -> &'static str {
    language.of(texts[0], texts[1])
}

impl Kind {
    pub(super) fn name(&self, language: Language) -> &'static str {
        of(&self.name, language)
    }

    pub(super) fn hint(&self, language: Language) -> &'static str {
        of(&self.hint, language)
    }

    pub(super) fn is_service(&self) -> bool {
        self.service
    }

    pub(super) fn id(&self, field: &str) -> String {
        format!("{}-{field}", self.word)
    }

    /// The fields of its settings.
    pub(super) fn fields(&self, language: Language) -> Markup {
        html! {
            input type="hidden" name="settings.kind" value=(self.word);
            @for field in self.fields { (field.draw(&self.id(&format!("setting-{}", field.name)), language)) }
        }
    }
}

impl Field {
    fn draw(&self, id: &str, language: Language) -> Markup {
        let (name, label) = (format!("settings.{}", self.name), of(&self.label, language));
        html! {
            div.field {
                @if self.input == Input::Switch {
                    label.check { input id=(id) name=(name) type="checkbox" data-type="bool"; (label) }
                } @else {
                    label for=(id) { (label) @if !self.required { " " span.soft { (language.of("(optional)", "（可不填）")) } } }
                    input id=(id) name=(name) required[self.required] maxlength="4096" placeholder=(self.example) autocomplete="off" spellcheck="false"
                        type=(if self.input == Input::Number { "number" } else { "text" }) data-type=[(self.input == Input::Number).then_some("number")];
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Map, Value, json};
    use targets::Settings;

    /// What the form of a kind sends, when only what is required was filled in.
    fn sent(kind: &Kind) -> Map<String, Value> {
        let mut sent = Map::from_iter([("kind".to_owned(), json!(kind.word))]);
        for field in kind.fields.iter().filter(|field| field.required) {
            let value = match field.input {
                Input::Text => json!(field.example),
                Input::Number => field.example.parse::<u64>().map_or(Value::Null, Value::from),
                Input::Switch => json!(false),
            };
            sent.insert(field.name.into(), value);
        }
        sent
    }

    #[test]
    fn each_kind_of_target_has_a_form_whose_fields_are_its_settings() {
        let unknown = serde_json::from_value::<Settings>(json!({ "kind": "?" })).unwrap_err().to_string();
        let known: Vec<&str> = unknown.split('`').skip(1).step_by(2).filter(|word| *word != "?").collect();
        assert!(known.contains(&"raw"), "{unknown}");
        let shown: Vec<&str> = KINDS.iter().map(|kind| kind.word).collect();
        assert_eq!(known.len(), shown.len(), "{known:?}, {shown:?}: each kind has one entry here");
        for kind in KINDS {
            assert!(known.contains(&kind.word), "{} is no kind", kind.word);
            let settings: Settings = serde_json::from_value(Value::Object(sent(kind))).unwrap();
            assert_eq!(settings.kind(), kind.word);
            for field in kind.fields {
                // A field that settings do not know is refused by name: so each is one of theirs.
                let mut all = sent(kind);
                all.entry(field.name).or_insert(Value::Null);
                let wrong = serde_json::from_value::<Settings>(Value::Object(all)).err().map(|error| error.to_string());
                assert!(!wrong.is_some_and(|wrong| wrong.contains("unknown field")), "{}: {}", kind.word, field.name);
            }
            for language in Language::ALL {
                assert!(kind.fields(language).into_string().contains("settings.kind"));
            }
        }
    }
}
