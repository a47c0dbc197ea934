-- One schema per service: a service reads another's data through that service's module only.
create schema identity;
create schema assets;
create schema builds;
create schema deployments;
create schema audit;

create table identity.organizations (
    id   text primary key,
    name text not null unique
);

-- Only the SHA-256 of a token is stored: tokens are 256 random bits, so a slow hash would add nothing.
create table identity.tokens (
    id              uuid primary key,
    organization_id text not null references identity.organizations,
    name            text not null,
    hash            bytea not null unique,
    scopes          text[] not null,
    created_at      timestamptz not null default now(),
    expires_at      timestamptz not null,
    revoked_at      timestamptz
);

create table assets.assets (
    key             text primary key,
    organization_id text not null references identity.organizations,
    name            text not null,
    kind            text not null check (kind in ('oml', 'component')),
    created_at      timestamptz not null default now(),
    unique (organization_id, name)
);

create table assets.revisions (
    asset_key       text not null references assets.assets,
    revision        integer not null check (revision > 0),
    organization_id text not null references identity.organizations,
    message         text not null default '',
    model_digest    text,
    wasm_digest     text not null,
    native_digest   text,
    claim           jsonb not null,
    schema          jsonb,
    dependencies    jsonb not null default '[]',
    created_by      text not null,
    created_at      timestamptz not null default now(),
    primary key (asset_key, revision)
);

create table builds.build_operations (
    key             uuid primary key,
    organization_id text not null references identity.organizations,
    asset_key       text references assets.assets,
    revision        integer,
    status          text not null,
    messages        jsonb not null default '[]',
    created_at      timestamptz not null default now(),
    finished_at     timestamptz
);

create table deployments.stages (
    organization_id text not null references identity.organizations,
    name            text not null,
    position        integer not null,
    primary key (organization_id, name)
);

-- What people decided: one row per app and stage, replaced by each deployment.
create table deployments.deployments (
    organization_id   text not null references identity.organizations,
    asset_key         text not null references assets.assets,
    stage             text not null,
    revision          integer not null,
    previous_revision integer,
    serving           boolean not null,
    epoch             integer not null,
    number            bigint not null,
    placements        text[] not null,
    egress_allow      text[] not null default '{}',
    updated_at        timestamptz not null default now(),
    primary key (asset_key, stage),
    foreign key (organization_id, stage) references deployments.stages
);

create table deployments.operations (
    key             uuid primary key,
    organization_id text not null references identity.organizations,
    kind            text not null check (kind in ('Publish', 'Deploy', 'Undeploy', 'Rollback')),
    asset_key       text references assets.assets,
    revision        integer,
    stage           text not null,
    build_key       uuid references builds.build_operations,
    status          text not null check (status in ('Running', 'Finished', 'FinishedWithError')),
    messages        jsonb not null default '[]',
    steps           jsonb not null default '[]',
    created_by      text not null,
    created_at      timestamptz not null default now(),
    finished_at     timestamptz
);
-- Two operations on one app in one stage at once would race; the second is refused.
create unique index operations_one_at_a_time on deployments.operations (asset_key, stage) where status = 'Running';
create index operations_newest on deployments.operations (organization_id, created_at desc);

create table audit.events (
    id              bigint generated always as identity primary key,
    at              timestamptz not null default now(),
    organization_id text not null,
    actor           text not null,
    action          text not null,
    subject         text not null,
    detail          jsonb not null default '{}'
);
create function audit.refuse_change() returns trigger language plpgsql as $$
begin
    raise exception 'audit.events is append-only';
end $$;
create trigger append_only before update or delete on audit.events for each row execute function audit.refuse_change();
create trigger append_only_all before truncate on audit.events for each statement execute function audit.refuse_change();
