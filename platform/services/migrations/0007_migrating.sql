-- Whether tables were migrated for a deployment that is not written down yet: if it never is, the one that serves may miss rules of its own.
alter table deployments.deployments add column migrating boolean not null default false;

-- Builds are forgotten when no operation names them.
create index operations_of_build on deployments.operations (build_key);
