-- What a revision is to other apps: its public elements, what it uses of others, and its event handlers.
alter table assets.revisions add column interface jsonb not null default '{"public": {}, "uses": {}, "handlers": []}';
