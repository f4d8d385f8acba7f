//! The compiled protos against the Go module k8s.io/cri-api: every message, field, number, type, enum value and
//! RPC must be the same, since a kubelet is built from that module.

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::process::Command;

    use prost::Message;
    use prost_types::field_descriptor_proto::{Label, Type};
    use prost_types::{
        DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto,
        FileDescriptorSet, ServiceDescriptorProto,
    };

    const PACKAGE: &str = "runtime.v1";

    #[test]
    fn every_fact_of_the_interface_is_the_go_modules() {
        let ours: BTreeSet<String> = facts(&cri()).into_iter().collect();
        let theirs: BTreeSet<String> = go_facts().lines().map(str::to_owned).collect();
        assert!(theirs.len() > 800, "the Go program printed only {} facts", theirs.len());
        let only_ours = ours.difference(&theirs).map(|fact| format!("+ {fact}"));
        let only_theirs = theirs.difference(&ours).map(|fact| format!("- {fact}"));
        let differences: Vec<String> = only_ours.chain(only_theirs).collect();
        assert!(differences.is_empty(), "ours (+) and upstream's (-):\n{}", differences.join("\n"));
    }

    /// The Go program's own description of what it prints is at the head of its source.
    #[expect(clippy::disallowed_methods, reason = "a test waits for its tool")]
    fn go_facts() -> String {
        let tool = concat!(env!("CARGO_MANIFEST_DIR"), "/hack/tools/cri-api");
        let out = Command::new("go")
            .args(["run", "."])
            .current_dir(tool)
            .env("GOFLAGS", "-mod=readonly")
            .output()
            .expect("this check needs go");
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).expect("facts are text")
    }

    fn cri() -> FileDescriptorProto {
        let set = FileDescriptorSet::decode(cri_proto::DESCRIPTORS).expect("our own descriptors");
        let file = set.file.into_iter().find(|file| file.package() == PACKAGE);
        file.expect("the package of the CRI")
    }

    fn facts(file: &FileDescriptorProto) -> Vec<String> {
        let enums = file.enum_type.iter().flat_map(|e| enum_facts("", e));
        let messages = file.message_type.iter().flat_map(|m| message_facts("", m));
        let services = file.service.iter().flat_map(service_facts);
        enums.chain(messages).chain(services).collect()
    }

    fn enum_facts(outer: &str, e: &EnumDescriptorProto) -> Vec<String> {
        let name = format!("{outer}{}", e.name());
        let value = |v: &prost_types::EnumValueDescriptorProto| {
            format!("value {name} {} {}", v.number(), v.name())
        };
        std::iter::once(format!("enum {name}")).chain(e.value.iter().map(value)).collect()
    }

    fn message_facts(outer: &str, message: &DescriptorProto) -> Vec<String> {
        let name = format!("{outer}{}", message.name());
        let inner = format!("{name}.");
        let mut facts = vec![format!("message {name}")];
        facts.extend(message.field.iter().map(|field| field_fact(&name, message, field)));
        facts.extend(message.enum_type.iter().flat_map(|e| enum_facts(&inner, e)));
        facts.extend(message.nested_type.iter().flat_map(|m| message_facts(&inner, m)));
        facts
    }

    fn field_fact(name: &str, message: &DescriptorProto, field: &FieldDescriptorProto) -> String {
        let label = match field.label() {
            Label::Optional => "optional",
            Label::Required => "required",
            Label::Repeated => "repeated",
        };
        let (number, kind) = (field.number(), kind(field));
        let fact = format!("field {name} {number} {} {label} {kind}", field.name());
        match field.oneof_index {
            Some(_) if field.proto3_optional() => format!("{fact} oneof _optional"),
            Some(index) => {
                let oneof = &message.oneof_decl[usize::try_from(index).expect("an index")];
                format!("{fact} oneof {}", oneof.name())
            }
            None => fact,
        }
    }

    fn kind(field: &FieldDescriptorProto) -> String {
        match field.r#type() {
            Type::Message => format!("message {}", relative(field.type_name())),
            Type::Enum => format!("enum {}", relative(field.type_name())),
            scalar => scalar.as_str_name().trim_start_matches("TYPE_").to_lowercase(),
        }
    }

    fn service_facts(service: &ServiceDescriptorProto) -> Vec<String> {
        let mode = |streams: bool| if streams { "stream" } else { "unary" };
        let rpc = |method: &prost_types::MethodDescriptorProto| {
            let (input, output) = (relative(method.input_type()), relative(method.output_type()));
            let (client, server) =
                (mode(method.client_streaming()), mode(method.server_streaming()));
            format!("rpc {} {} {input} {output} {client} {server}", service.name(), method.name())
        };
        service.method.iter().map(rpc).collect()
    }

    fn relative(name: &str) -> &str {
        name.trim_start_matches('.').trim_start_matches(PACKAGE).trim_start_matches('.')
    }
}
