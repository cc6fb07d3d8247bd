//! As much of introspection XML as it takes to compare two interfaces.

use std::collections::BTreeMap;

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Interface {
    /// By kind and name: arguments (direction, type, name), type, access,
    /// annotations, as they come.
    pub(crate) members: BTreeMap<String, Vec<String>>,
}

#[derive(Debug, Default)]
pub(crate) struct Node(BTreeMap<String, Interface>);

impl Node {
    pub(crate) fn parse(xml: &str) -> Self {
        let mut node = Self::default();
        let mut interface = String::new();
        let mut member = String::new();
        for tag in tags(xml) {
            let name = attribute(&tag, "name");
            match tag.split_whitespace().next().unwrap_or_default() {
                "interface" => {
                    interface = name;
                    node.0.entry(interface.clone()).or_default();
                }
                kind @ ("method" | "signal" | "property") => {
                    member = format!("{kind} {name}");
                    let about =
                        format!("{} {}", attribute(&tag, "type"), attribute(&tag, "access"));
                    let members = &mut node.0.get_mut(&interface).unwrap().members;
                    members.insert(member.clone(), vec![about.trim().to_owned()]);
                }
                "arg" => {
                    // A method's arguments go in, and a signal's out, unless they say so.
                    let direction = match attribute(&tag, "direction") {
                        said if !said.is_empty() => said,
                        _ if member.starts_with("signal") => "out".to_owned(),
                        _ => "in".to_owned(),
                    };
                    let line = format!("{direction} {} {name}", attribute(&tag, "type"));
                    node.add(&interface, &member, line);
                }
                "annotation" => {
                    let line = format!("{name}={}", attribute(&tag, "value"));
                    node.add(&interface, &member, line);
                }
                _ => {}
            }
        }
        node
    }

    fn add(&mut self, interface: &str, member: &str, line: String) {
        self.0
            .get_mut(interface)
            .unwrap()
            .members
            .get_mut(member)
            .unwrap()
            .push(line);
    }

    pub(crate) fn interface(&self, name: &str) -> Option<&Interface> {
        self.0.get(name)
    }
}

/// The content of every tag; comments are left out.
fn tags(xml: &str) -> Vec<String> {
    let mut rest = xml;
    let mut tags = Vec::new();
    while let Some(start) = rest.find('<') {
        rest = &rest[start + 1..];
        if let Some(comment) = rest.strip_prefix("!--") {
            rest = &comment[comment.find("-->").expect("the comment ends")..];
            continue;
        }
        let end = rest.find('>').expect("the tag ends");
        tags.push(rest[..end].trim_end_matches('/').replace('\n', " "));
        rest = &rest[end..];
    }
    tags
}

fn attribute(tag: &str, name: &str) -> String {
    let start = format!(" {name}=\"");
    let Some(at) = tag.find(&start) else {
        return String::new();
    };
    let value = &tag[at + start.len()..];
    value[..value.find('"').expect("the value ends")].to_owned()
}
