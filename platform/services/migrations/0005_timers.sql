-- What a stage says of an app's timer, instead of the revision. Null: as the revision says.
create table configurations.timers (
    organization_id text not null references identity.organizations,
    asset_key       text not null references assets.assets,
    stage           text not null,
    name            text not null,
    schedule        text,
    timeout_minutes integer,
    deactivated_at  timestamptz,
    updated_by      text not null,
    updated_at      timestamptz not null default now(),
    primary key (asset_key, stage, name),
    foreign key (organization_id, stage) references deployments.stages
);
