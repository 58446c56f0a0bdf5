package manifest_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/manifest"
)

const deployment = `
kind: Deployment
spec:
  replicas: 5
  strategy: {rollingUpdate: {maxUnavailable: 1}}
  template:
    spec:
      containers:
        - name: it
          envFrom: [{configMapRef: {name: settings}}]
          env:
            - {name: TWO, value: its own}
            - {name: NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
            - {name: FILE, value: /mounted/here/key}
            - {name: MEMORY, valueFrom: {resourceFieldRef: {resource: limits.memory, divisor: 1Mi}}}
            - {name: TWICE, value: $(MEMORY)$(MEMORY)B}
            - {name: KEY, valueFrom: {secretKeyRef: {name: secret, key: key}}}
            - {name: NONE, valueFrom: {secretKeyRef: {name: secret, key: none, optional: true}}}
          resources: {limits: {memory: 64Mi}}
          volumeMounts: [{name: volume, mountPath: /mounted/here}]
          livenessProbe: {httpGet: {path: /livez}}
          readinessProbe: {httpGet: {path: /readyz}, periodSeconds: 5, failureThreshold: 2, timeoutSeconds: 3}
      volumes: [{name: volume, secret: {secretName: secret}}]
`

func read(t *testing.T, text string) *manifest.Pod {
	t.Helper()
	folder := t.TempDir()
	for name, content := range map[string]string{
		"deployment.yaml":    text,
		"kustomization.yaml": "resources: [deployment.yaml]\nconfigMapGenerator: [{name: settings, envs: [settings.env]}]",
		"settings.env":       "# comment = none\nONE=from the map\n\nTWO=from the map\n",
	} {
		require.NoError(t, os.WriteFile(filepath.Join(folder, name), []byte(content), 0o600))
	}
	d, err := manifest.Read(folder)
	require.NoError(t, err)
	return &manifest.Pod{
		Deployment: d, Name: "it-1", Root: t.TempDir(),
		Secrets: map[string]map[string]string{"secret": {"key": "hidden"}},
	}
}

func TestWhatAContainerIsGiven(t *testing.T) {
	t.Parallel()
	p := read(t, deployment)
	c := p.Template.Spec.Containers[0]
	environment, err := p.Environment(c)
	require.NoError(t, err)
	file := filepath.Join(p.Root, "mounted/here/key")
	assert.Equal(t, []string{
		"FILE=" + file, "KEY=hidden", "MEMORY=64", "NAME=it-1", "ONE=from the map", "TWICE=6464B", "TWO=its own",
	}, environment)

	for _, value := range []string{"hidden", "changed"} {
		p.Secrets["secret"]["key"] = value
		require.NoError(t, p.Mount())
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		assert.Equal(t, value, string(text))
	}

	assert.Equal(t, 20*time.Second, c.Liveness.Forgives())
	assert.Equal(t, time.Second, c.Liveness.Timeout())
	assert.Equal(t, 5*time.Second, c.Readiness.Forgives())
	assert.Equal(t, 3*time.Second, c.Readiness.Timeout())
	assert.Equal(t, 5, p.Replicas)
	assert.Equal(t, "1", p.Strategy.RollingUpdate.MaxUnavailable)
}

func TestWhatIsNotUnderstoodIsAnError(t *testing.T) {
	t.Parallel()
	for name, env := range map[string]string{
		"another field":     "{name: NAME, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}",
		"another source":    "{name: NAME, valueFrom: {fileKeyRef: {path: here}}}",
		"an unknown name":   "{name: NAME, value: $(OTHER)}",
		"a key of no one's": "{name: NAME, valueFrom: {secretKeyRef: {name: secret, key: none}}}",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := read(t, "kind: Deployment\nspec: {template: {spec: {containers: [{name: it, env: ["+env+"]}]}}}")
			_, err := p.Environment(p.Template.Spec.Containers[0])
			assert.ErrorContains(t, err, "NAME")
		})
	}
}
