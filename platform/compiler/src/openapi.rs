//! What an exposed REST API says of itself: an OpenAPI 3.1 document, and a page for people.
//!
//! Both are made from the checked model when it is compiled and lie in the component as data, so that they always
//! describe the revision that serves. Served at `/<App>/rest/<Api>/openapi.json` and `/<App>/rest/<Api>`.
//! Invariant: what a method takes and answers here is what `lower` told the runtime.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use crate::ast::{self, Parsed, Source};
use crate::literal;
use crate::types::*;

const VERBS: [&str; 4] = ["get", "post", "put", "delete"];
const NAME_OF_ERRORS: &str = "OdeonErrors";

/// A text that the app serves as it is.
#[derive(Debug)]
pub(crate) struct Document {
    /// Below the app, without a slash in front.
    pub(crate) path: String,
    pub(crate) content_type: &'static str,
    pub(crate) text: String,
}

/// The documents of all APIs.
pub(crate) fn documents(parsed: &Parsed, typed: &Typed) -> Vec<Document> {
    let app = parsed.app.as_ref().map_or("", |app| app.text.as_str());
    let mut documents = Vec::new();
    for api in &parsed.apis {
        let methods: Vec<Method<'_>> = typed
            .routes
            .iter()
            .filter_map(|route| {
                let action = &parsed.actions[route.action];
                let rest = action.kind.exposed().filter(|rest| rest.api == api.name.text)?;
                let def = &typed.named.actions[route.action];
                Some(Method { action, rest, route, def })
            })
            .collect();
        let base = format!("rest/{}", api.name.text);
        let text = document(app, api, &methods, &typed.named).to_string();
        let path = format!("{base}/openapi.json");
        documents.push(Document { path, content_type: "application/json; charset=utf-8", text });
        let text = page(app, api, &methods, &typed.named);
        documents.push(Document { path: base, content_type: "text/html; charset=utf-8", text });
    }
    documents
}

struct Method<'m> {
    action: &'m ast::Action,
    rest: &'m ast::RestMethod,
    route: &'m Route,
    def: &'m ActionDef,
}

impl Method<'_> {
    /// Every input with what the model says of it, and where it comes from.
    fn inputs(&self) -> impl Iterator<Item = (&LocalDef, &ast::Declared, Source)> {
        let declared = self.def.variables.iter().zip(&self.action.inputs);
        declared.zip(&self.route.sources).map(|((input, declared), source)| (input, declared, *source))
    }
}

fn document(app: &str, api: &ast::Api, methods: &[Method<'_>], named: &Named) -> Value {
    let mut paths: Map<String, Value> = Map::new();
    for method in methods {
        let verb = VERBS[method.route.verb as usize];
        let path = paths.entry(method.rest.path.text.clone()).or_insert_with(|| json!({}));
        path[verb] = operation(method, named);
    }
    let mut schemas: Map<String, Value> = Map::new();
    schemas.insert(NAME_OF_ERRORS.to_owned(), errors());
    for method in methods {
        for variable in &method.def.variables[..method.def.inputs + method.def.outputs] {
            records(&variable.ty, named, &mut schemas);
        }
    }
    let mut document = json!({
        "openapi": "3.1.0",
        "info": { "title": format!("{app} {}", api.name.text), "version": "1" },
        "servers": [{ "url": format!("/{app}/rest/{}", api.name.text) }],
        "paths": paths,
        "components": { "schemas": schemas },
    });
    if let Some(description) = &api.description {
        document["info"]["description"] = json!(description);
    }
    if api.authentication.is_some() {
        document["components"]["securitySchemes"] = json!({ "basic": { "type": "http", "scheme": "basic" } });
        document["security"] = json!([{ "basic": [] }]);
    }
    document
}

fn operation(method: &Method<'_>, named: &Named) -> Value {
    let mut operation = json!({ "operationId": method.action.name.text });
    if let Some(description) = &method.action.description {
        operation["description"] = json!(description);
    }
    let mut parameters = Vec::new();
    for (input, declared, source) in method.inputs() {
        let place = match source {
            Source::Body => {
                let content = json!({ "application/json": { "schema": schema(&input.ty, None, named) } });
                operation["requestBody"] = json!({ "required": input.mandatory, "content": content });
                continue;
            }
            Source::Path => "path",
            Source::Query => "query",
            Source::Header => "header",
        };
        let mut parameter = json!({
            "name": input.header.as_ref().unwrap_or(&input.name),
            "in": place,
            "required": input.mandatory || source == Source::Path,
            "schema": with_default(schema(&input.ty, None, named), input.default.as_ref()),
        });
        if let Some(description) = &declared.description {
            parameter["description"] = json!(description);
        }
        parameters.push(parameter);
    }
    if !parameters.is_empty() {
        operation["parameters"] = json!(parameters);
    }
    let mut answer = json!({ "description": "Success" });
    let outputs = method.def.outputs();
    let body = match outputs {
        [] => None,
        [one] => Some(schema(&one.ty, None, named)),
        several => {
            let keys: Map<String, Value> =
                several.iter().map(|output| (output.name.clone(), schema(&output.ty, None, named))).collect();
            Some(json!({ "type": "object", "properties": keys }))
        }
    };
    if let Some(body) = body {
        answer["content"] = json!({ "application/json": { "schema": body } });
    }
    let failure = json!({
        "description": "Failure",
        "content": { "application/json": { "schema": reference(NAME_OF_ERRORS) } },
    });
    let mut responses: Map<String, Value> = Map::new();
    responses.insert(method.rest.status.to_string(), answer);
    responses.insert("default".to_owned(), failure);
    operation["responses"] = Value::Object(responses);
    operation
}

/// The schemas of the records that a type is made of.
fn records(ty: &Type, named: &Named, schemas: &mut Map<String, Value>) {
    let mut ty = ty;
    while let Type::List(of) = ty {
        ty = of;
    }
    let Type::Record(record) = *ty else { return };
    let def = &named.records[record];
    if schemas.contains_key(&def.name) {
        return;
    }
    let mut properties: Map<String, Value> = Map::new();
    let mut required = Vec::new();
    for field in &def.fields {
        let mut schema = with_default(schema(&field.ty, field.length, named), field.default.as_ref());
        if let Some(label) = &field.label {
            schema["title"] = json!(label);
        }
        properties.insert(field.name.clone(), schema);
        if field.mandatory {
            required.push(json!(field.name));
        }
    }
    let mut schema = json!({ "type": "object", "properties": properties });
    if !required.is_empty() {
        schema["required"] = Value::Array(required);
    }
    schemas.insert(def.name.clone(), schema);
    for field in &def.fields {
        records(&field.ty, named, schemas);
    }
}

fn schema(ty: &Type, length: Option<u32>, named: &Named) -> Value {
    let mut schema = match ty {
        Type::Unknown => json!({}),
        Type::Boolean => json!({ "type": "boolean" }),
        Type::Integer => json!({ "type": "integer", "format": "int32" }),
        Type::Long | Type::Identifier(_) => json!({ "type": "integer", "format": "int64" }),
        Type::Decimal => json!({ "type": "number" }),
        Type::Text | Type::Phone | Type::TextIdentifier(_) => json!({ "type": "string" }),
        Type::Email => json!({ "type": "string", "format": "email" }),
        Type::Date => json!({ "type": "string", "format": "date" }),
        Type::Time => json!({ "type": "string", "format": "time" }),
        Type::DateTime => json!({ "type": "string", "format": "date-time" }),
        Type::Binary => json!({ "type": "string", "contentEncoding": "base64" }),
        Type::Record(record) => reference(&named.records[*record].name),
        Type::List(of) => json!({ "type": "array", "items": self::schema(of, None, named) }),
    };
    if let Some(length) = length {
        schema["maxLength"] = json!(length);
    }
    schema
}

fn with_default(mut schema: Value, default: Option<&Constant>) -> Value {
    let Some(default) = default else { return schema };
    schema["default"] = match default {
        Constant::Boolean(value) => json!(value),
        Constant::Integer(value) => json!(value),
        Constant::Long(value) => json!(value),
        // A float, for once: this is what people read, not what the app computes with.
        Constant::Decimal(_) => json!(literal::shown(default).parse::<f64>().unwrap_or_default()),
        Constant::Text(_) | Constant::Date(_) | Constant::Time(_) | Constant::DateTime(_) => {
            json!(literal::shown(default))
        }
    };
    schema
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

fn errors() -> Value {
    json!({
        "type": "object",
        "properties": {
            "Errors": { "type": "array", "items": { "type": "string" } },
            "StatusCode": { "type": "integer" },
            "errorCode": { "type": "string" },
            "requestId": { "type": "string" },
        },
    })
}

fn page(app: &str, api: &ast::Api, methods: &[Method<'_>], named: &Named) -> String {
    let title = format!("{app} {}", api.name.text);
    let mut html = format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>{title}</title>\n<style>body{{font:16px/1.5 system-ui;max-width:52rem;margin:2rem auto;padding:0 1rem}}\
         code{{background:#eee;padding:0 .3em}}table{{border-collapse:collapse}}td,th{{border:1px solid #ccc;\
         padding:.2rem .6rem;text-align:left}}</style>\n<h1>{title}</h1>\n"
    );
    if let Some(description) = &api.description {
        paragraph(&mut html, description);
    }
    if api.authentication.is_some() {
        paragraph(&mut html, "Every method needs HTTP Basic authentication.");
    }
    let document = format!("/{app}/rest/{}/openapi.json", api.name.text);
    let _ = writeln!(html, "<p><a href=\"{document}\">OpenAPI 3.1 document</a></p>");
    for method in methods {
        let verb = VERBS[method.route.verb as usize].to_uppercase();
        let path = escaped(&method.rest.path.text);
        let _ = writeln!(html, "<h2>{}</h2>\n<p><code>{verb} {path}</code></p>", method.action.name.text);
        if let Some(description) = &method.action.description {
            paragraph(&mut html, description);
        }
        let mut rows = String::new();
        for (input, declared, source) in method.inputs() {
            let name = input.header.as_ref().unwrap_or(&input.name);
            let place = format!("{source:?}").to_lowercase();
            let needed = if input.mandatory || source == Source::Path { "yes" } else { "" };
            let about = escaped(declared.description.as_deref().unwrap_or_default());
            let ty = named.shown(&input.ty);
            let _ = write!(rows, "<tr><td>{name}<td>{place}<td>{ty}<td>{needed}<td>{about}");
        }
        if !rows.is_empty() {
            let _ = writeln!(html, "<table><tr><th>Input<th>from<th>type<th>mandatory<th>{rows}</table>");
        }
        let outputs: Vec<String> =
            method.def.outputs().iter().map(|o| format!("{}: {}", o.name, named.shown(&o.ty))).collect();
        if !outputs.is_empty() {
            let _ = writeln!(html, "<p>Answers {} with {}.</p>", method.rest.status, outputs.join(", "));
        }
    }
    html
}

fn paragraph(html: &mut String, text: &str) {
    let _ = writeln!(html, "<p>{}</p>", escaped(text));
}

/// Names hold letters, digits and _ only; everything else is escaped.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
