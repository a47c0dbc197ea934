-- What a stage sets for an app. A secret is stored sealed: the key is in the key folder, not here.
create schema configurations;

create table configurations.settings (
    organization_id text not null references identity.organizations,
    asset_key       text not null references assets.assets,
    stage           text not null,
    name            text not null,
    value           text,
    secret          text,
    updated_by      text not null,
    updated_at      timestamptz not null default now(),
    primary key (asset_key, stage, name),
    foreign key (organization_id, stage) references deployments.stages,
    check (num_nonnulls(value, secret) = 1)
);

-- What may be set, and what runs by itself, is part of the revision, as its tables are.
alter table assets.revisions add column settings jsonb not null default '[]';
alter table assets.revisions add column timers jsonb not null default '[]';

alter table deployments.operations drop constraint operations_kind_check;
alter table deployments.operations add constraint operations_kind_check
    check (kind in ('Publish', 'Deploy', 'Undeploy', 'Rollback', 'ApplyConfigs'));
