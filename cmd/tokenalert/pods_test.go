package main

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/manifest"
	"tokenalert/store"
	"tokenalert/worker"
)

// base is where the manifests are.
const base = "../../deploy/base"

// deployed is deploy/base beside a platform. Its pods are processes, with the
// exact commands, variables and files of their containers.
type deployed struct {
	*platform
	*manifest.Deployment
	secrets map[string]map[string]string
	binary  string // of the pods that are made from here on
	pods    []*pod // also those that are gone
}

// podRole is the worker's role, to which an init container gives what it needs.
const podRole = "tokenalert"

// deploy reads the manifests and makes the role. Nothing runs yet.
func (p *platform) deploy() *deployed {
	p.t.Helper()
	m, err := manifest.Read(base)
	require.NoError(p.t, err)
	require.Len(p.t, m.Template.Spec.Containers, 1)
	_, err = p.admin.Exec(p.t.Context(), "CREATE ROLE "+podRole+" LOGIN")
	if code := store.SQLState(err); code != "42710" && code != "23505" { // there already, or made just now by another test
		require.NoError(p.t, err)
	}
	return &deployed{platform: p, Deployment: m, binary: binaryPath(p.t), secrets: map[string]map[string]string{
		"tokenalert":       {"database-url": p.db.URLAs(podRole)},
		"tokenalert-owner": {"database-url": p.db.OwnerURL()},
	}}
}

// pod is one, and the process of its container.
type pod struct {
	*process
	*manifest.Pod
	container manifest.Container
	binary    string

	endProbes func()
	asked     time.Time // to end
	took      time.Duration
	probing   sync.Mutex
	failing   map[string]time.Duration // the longest, by the probe's path
}

// create makes pods, all at once, and returns when all are ready. In each the
// init containers run before the container does.
func (d *deployed) create(n int) []*pod {
	d.t.Helper()
	var made []*pod
	for range n {
		p := &pod{container: d.Template.Spec.Containers[0], binary: d.binary, failing: map[string]time.Duration{}}
		p.Pod = &manifest.Pod{
			Deployment: d.Deployment, Name: fmt.Sprintf("tokenalert-%d", len(d.pods)+1), Root: d.t.TempDir(), Secrets: d.secrets,
		}
		require.NoError(d.t, p.Mount())
		made, d.pods = append(made, p), append(d.pods, p)
	}
	for _, c := range d.Template.Spec.InitContainers {
		var running []*process
		for _, p := range made {
			running = append(running, p.start(d.t, c))
		}
		for _, r := range running {
			require.Equal(d.t, 0, r.wait(), "exit status of the init container %s: %s", c.Name, &r.stderr)
		}
	}
	for _, p := range made {
		p.process = p.start(d.t, p.container)
	}
	for _, p := range made {
		eventually(d.t, func() bool { return probed(d.t.Context(), p.container.Startup, p.address()) }, p.Name+" does not start")
		p.awaitReady()
		p.probe()
	}
	return made
}

// start starts a container. In a cluster each pod has a network of its own; here
// they share one.
func (p *pod) start(t *testing.T, c manifest.Container) *process {
	t.Helper()
	args := slices.Concat(c.Command, c.Args)
	if len(c.Command) > 0 { // in place of the image's entry point
		require.Equal(t, "/tokenalert", args[0])
		args = args[1:]
	}
	environment, err := p.Environment(c)
	require.NoError(t, err)
	return startBinary(t, p.binary, append(environment, "TOKENALERT_HTTP_ADDRESS=127.0.0.1:0"), args...)
}

// settings are what the container is configured with.
func (p *pod) settings() settings {
	p.t.Helper()
	environment, err := p.Environment(p.container)
	require.NoError(p.t, err)
	s, err := loadSettings(environment)
	require.NoError(p.t, err)
	return s
}

// probeEvery is much more often than a kubelet asks.
const probeEvery = 25 * time.Millisecond

// probe asks what a kubelet asks, until stop, and notes for how long the answer
// was no.
func (p *pod) probe() {
	p.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	address := p.address()
	var asking sync.WaitGroup
	for _, probe := range []manifest.Probe{p.container.Liveness, p.container.Readiness} {
		asking.Go(func() {
			since := time.Now() // of the last good answer
			pace := time.NewTicker(probeEvery)
			defer pace.Stop()
			for ctx.Err() == nil {
				began := time.Now()
				if probed(ctx, probe, address) {
					since = began
				} else if ctx.Err() == nil {
					p.probing.Lock()
					p.failing[probe.HTTPGet.Path] = max(p.failing[probe.HTTPGet.Path], time.Since(since))
					p.probing.Unlock()
				}
				select {
				case <-ctx.Done():
				case <-pace.C:
				}
			}
		})
	}
	p.endProbes = func() { cancel(); asking.Wait() }
	p.t.Cleanup(p.endProbes)
}

func probed(ctx context.Context, probe manifest.Probe, address string) bool {
	ctx, cancel := context.WithTimeout(ctx, probe.Timeout())
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+probe.HTTPGet.Path, nil)
	if err != nil {
		return false
	}
	request.Close = true
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return false
	}
	_ = response.Body.Close() // the status is all
	return response.StatusCode >= 200 && response.StatusCode < 400
}

// stop tells a pod to end, as a kubelet does. It is asked nothing from then on.
func (p *pod) stop() {
	p.t.Helper()
	p.endProbes()
	p.probing.Lock()
	for _, probe := range []manifest.Probe{p.container.Liveness, p.container.Readiness} {
		path := probe.HTTPGet.Path
		assert.LessOrEqual(p.t, p.failing[path], probe.Forgives(), "%s: how long %s failed", p.Name, path)
	}
	p.probing.Unlock()
	p.asked = time.Now()
	p.signal(syscall.SIGTERM)
}

// gone waits for the end of a pod that was told to, which comes within the grace.
func (p *pod) gone() {
	p.t.Helper()
	p.stopped()
	p.took = p.endedAt.Sub(p.asked)
	assert.Less(p.t, p.took, p.settings().ShutdownGrace, "%s: how long stopping took", p.Name)
}

// stop tells pods to end, all at once, and waits until they have.
func (d *deployed) stop(pods []*pod) {
	d.t.Helper()
	for _, p := range pods {
		p.stop()
	}
	for _, p := range pods {
		p.gone()
	}
}

// leads reports whether the pod leads, and has ticked.
func (p *pod) leads() bool {
	p.t.Helper()
	return strings.HasPrefix(p.awaitReady(), "leader")
}

// ready waits until all pods are that are there, one of them as the leader.
func (d *deployed) ready() {
	d.t.Helper()
	eventually(d.t, func() bool {
		leaders := 0
		for _, p := range d.pods {
			if p.asked.IsZero() && p.leads() {
				leaders++
			}
		}
		return leaders == 1
	}, "not one leader")
}

// unready is for how long at most a pod was not ready that had been.
func (d *deployed) unready() (longest time.Duration) {
	for _, p := range d.pods {
		p.probing.Lock()
		longest = max(longest, p.failing[p.container.Readiness.HTTPGet.Path])
		p.probing.Unlock()
	}
	return longest
}

// roll replaces pods by new ones as a Deployment does that may have one pod more
// than its replicas and none fewer: whenever a new one is ready, one of the old
// is told to end and the next is made beside it. each is called before.
func (d *deployed) roll(old []*pod, each func()) []*pod {
	d.t.Helper()
	update := d.Strategy.RollingUpdate
	require.Equal(d.t, "1 0", update.MaxSurge+" "+update.MaxUnavailable, "maxSurge and maxUnavailable")
	made := d.create(1)
	for n, p := range old {
		each()
		p.stop()
		if n+1 < len(old) {
			made = append(made, d.create(1)...)
		}
		p.gone()
	}
	each()
	return made
}

// leaderFirst puts the pod that leads before the others.
func leaderFirst(pods []*pod) []*pod {
	slices.SortStableFunc(pods, func(a, b *pod) int {
		switch {
		case a.leads() && !b.leads():
			return -1
		case b.leads() && !a.leads():
			return 1
		}
		return 0
	})
	return pods
}

// said are all lines of an event in the logs of pods.
func said(pods []*pod, event worker.EventName) []map[string]any {
	var lines []map[string]any
	for _, p := range pods {
		lines = append(lines, p.log(event)...)
	}
	return lines
}

// rotate has the pods that are there find the Secrets as they are by now.
func (d *deployed) rotate() {
	d.t.Helper()
	for _, p := range d.pods {
		if p.asked.IsZero() {
			require.NoError(d.t, p.Mount())
		}
	}
}
