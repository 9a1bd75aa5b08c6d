// The official JavaScript client against our server: objects, patches, watches, informers.
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { after, before, describe, test } from 'node:test';

import * as k8s from '@kubernetes/client-node';

const config = new k8s.KubeConfig();
config.loadFromDefault();
const core = config.makeApiClient(k8s.CoreV1Api);
const apps = config.makeApiClient(k8s.AppsV1Api);
const namespace = `javascript-${randomUUID().slice(0, 8)}`;

const configMap = (name, data, labels) => ({ metadata: { name, labels }, data });
const make = (name, data = { a: '1' }, labels = undefined) =>
  core.createNamespacedConfigMap({ namespace, body: configMap(name, data, labels) });

/** A promise with its handles, for what callbacks tell. */
function told() {
  const handles = {};
  handles.promise = new Promise((resolve, reject) => Object.assign(handles, { resolve, reject }));
  return handles;
}

async function refused(code, request) {
  await assert.rejects(request, (error) => {
    assert.equal(error.code, code, error.body);
    return true;
  });
}

before(() => core.createNamespace({ body: { metadata: { name: namespace } } }));
after(() => core.deleteNamespace({ name: namespace }));

describe('objects', () => {
  test('are created, read, replaced and deleted', async () => {
    const made = await make('one');
    assert.ok(made.metadata.creationTimestamp instanceof Date);
    await refused(409, make('one'));
    made.data = { a: '2' };
    const replaced = await core.replaceNamespacedConfigMap({ name: 'one', namespace, body: made });
    assert.notEqual(replaced.metadata.resourceVersion, made.metadata.resourceVersion);
    await refused(409, core.replaceNamespacedConfigMap({ name: 'one', namespace, body: made }));
    await core.deleteNamespacedConfigMap({ name: 'one', namespace });
    await refused(404, core.readNamespacedConfigMap({ name: 'one', namespace }));
  });

  test('come in pages', async () => {
    for (let n = 0; n < 5; n++) await make(`page-${n}`, undefined, { pages: 'yes' });
    const names = [];
    let _continue;
    do {
      const page = await core.listNamespacedConfigMap({ namespace, labelSelector: 'pages', limit: 2, _continue });
      names.push(...page.items.map((item) => item.metadata.name));
      _continue = page.metadata._continue;
    } while (_continue);
    assert.deepEqual(names, [0, 1, 2, 3, 4].map((n) => `page-${n}`));
  });

  test('are patched in all forms', async () => {
    await make('patched');
    const patch = (type, body, options = {}) =>
      core.patchNamespacedConfigMap(
        { name: 'patched', namespace, body, ...options },
        k8s.setHeaderOptions('Content-Type', type),
      );
    const merged = await patch(k8s.PatchStrategy.MergePatch, { data: { b: '2', a: null } });
    assert.deepEqual(merged.data, { b: '2' });
    const json = await patch(k8s.PatchStrategy.JsonPatch, [{ op: 'add', path: '/data/c', value: '3' }]);
    assert.deepEqual(json.data, { b: '2', c: '3' });
    const strategic = await patch(k8s.PatchStrategy.StrategicMergePatch, { data: { c: null } });
    assert.deepEqual(strategic.data, { b: '2' });
    const applied = { apiVersion: 'v1', kind: 'ConfigMap', metadata: { name: 'patched' }, data: { d: '4' } };
    const one = await patch(k8s.PatchStrategy.ServerSideApply, applied, { fieldManager: 'one' });
    assert.deepEqual(one.data, { b: '2', d: '4' });
    applied.data.d = '5';
    await refused(409, patch(k8s.PatchStrategy.ServerSideApply, applied, { fieldManager: 'two' }));
    const forced = await patch(k8s.PatchStrategy.ServerSideApply, applied, { fieldManager: 'two', force: true });
    assert.equal(forced.data.d, '5');
  });

  test('have subresources', async () => {
    const labels = { app: 'scaled' };
    const containers = [{ name: 'main', image: 'example.com/x' }];
    await apps.createNamespacedDeployment({
      namespace,
      body: {
        metadata: { name: 'scaled' },
        spec: { replicas: 0, selector: { matchLabels: labels }, template: { metadata: { labels }, spec: { containers } } },
      },
    });
    const scale = await apps.readNamespacedDeploymentScale({ name: 'scaled', namespace });
    scale.spec.replicas = 2;
    await apps.replaceNamespacedDeploymentScale({ name: 'scaled', namespace, body: scale });
    const scaled = await apps.readNamespacedDeployment({ name: 'scaled', namespace });
    assert.equal(scaled.spec.replicas, 2);
  });

  test('need no types', async () => {
    const objects = k8s.KubernetesObjectApi.makeApiClient(config);
    const spec = { apiVersion: 'policy/v1', kind: 'PodDisruptionBudget', metadata: { name: 'budget', namespace } };
    const made = await objects.create({ ...spec, spec: { minAvailable: 1, selector: { matchLabels: { a: 'b' } } } });
    assert.equal(made.spec.minAvailable, 1);
    await objects.patch({ ...spec, spec: { minAvailable: 2 } });
    assert.equal((await objects.read(spec)).spec.minAvailable, 2);
    const listed = await objects.list('policy/v1', 'PodDisruptionBudget', namespace);
    assert.deepEqual(listed.items.map((item) => item.metadata.name), ['budget']);
    await objects.delete(spec);
  });
});

describe('watches', () => {
  test('tell everything in order', async () => {
    const start = await core.listNamespacedConfigMap({ namespace });
    const done = told();
    const events = [];
    const controller = await new k8s.Watch(config).watch(
      `/api/v1/namespaces/${namespace}/configmaps`,
      { resourceVersion: start.metadata.resourceVersion, fieldSelector: 'metadata.name=watched' },
      (type, object) => {
        events.push([type, object.data.n]);
        if (type === 'DELETED') done.resolve();
      },
      (error) => done.reject(error ?? new Error('the watch ended')),
    );
    const made = await make('watched', { n: '0' });
    for (let n = 1; n < 4; n++) {
      made.data.n = String(n);
      made.metadata.resourceVersion = undefined;
      await core.replaceNamespacedConfigMap({ name: 'watched', namespace, body: made });
    }
    await core.deleteNamespacedConfigMap({ name: 'watched', namespace });
    await done.promise;
    controller.abort();
    const versions = ['0', '1', '2', '3'].map((n, at) => [at ? 'MODIFIED' : 'ADDED', n]);
    assert.deepEqual(events, [...versions, ['DELETED', '3']]);
  });

  test('feed informers, which survive a list', async () => {
    await make('before', undefined, { known: 'yes' });
    const list = () => core.listNamespacedConfigMap({ namespace, labelSelector: 'known=yes' });
    const path = `/api/v1/namespaces/${namespace}/configmaps`;
    const informer = k8s.makeInformer(config, path, list, 'known=yes');
    const seen = [];
    const waits = new Map();
    for (const verb of ['add', 'update', 'delete']) {
      informer.on(verb, (object) => {
        const what = `${verb} ${object.metadata.name}`;
        seen.push(what);
        waits.get(what)?.resolve();
      });
    }
    const happens = (what) => {
      const wait = told();
      waits.set(what, wait);
      if (seen.includes(what)) wait.resolve();
      return wait.promise;
    };
    await informer.start();
    await happens('add before');
    const later = await make('later', undefined, { known: 'yes' });
    await happens('add later');
    later.data.a = '2';
    await core.replaceNamespacedConfigMap({ name: 'later', namespace, body: later });
    await happens('update later');
    assert.deepEqual(informer.list(namespace).map((o) => o.metadata.name).sort(), ['before', 'later']);
    // Out of the selector is out of the informer.
    later.metadata = { name: 'later', labels: {} };
    await core.replaceNamespacedConfigMap({ name: 'later', namespace, body: later });
    await happens('delete later');
    await core.deleteNamespacedConfigMap({ name: 'before', namespace });
    await happens('delete before');
    await informer.stop();
    assert.deepEqual(informer.list(namespace), []);
  });
});
