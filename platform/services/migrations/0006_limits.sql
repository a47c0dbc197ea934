-- What a deployment's replicas may use, where that is not the default: an object with the names of the protocol's limits.
alter table deployments.deployments add column limits jsonb not null default '{}';
