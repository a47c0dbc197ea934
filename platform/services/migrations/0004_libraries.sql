-- A library is an asset with revisions that are compiled into apps and never deployed.
alter table assets.assets drop constraint assets_kind_check;
alter table assets.assets add constraint assets_kind_check check (kind in ('oml', 'component', 'library'));
