package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/faults/lane"
	"tokenalert/faults/line"
	"tokenalert/faults/plan"
	"tokenalert/internal/manifest"
	"tokenalert/internal/module"
)

func TestMain(m *testing.M) {
	if err := enter(context.Background()); err != nil {
		_, _ = fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func newLaboratory(t *testing.T, schedules int) *laboratory {
	return &laboratory{options: options{
		directory: t.TempDir(), lanes: 2, schedules: schedules, seed: 1, progress: io.Discard, binDir: os.Getenv("PGTEST_BIN"),
	}}
}

// A short run; make faults plays more of them.
func TestNothingIsMissedAndNothingDoubled(t *testing.T) {
	l := newLaboratory(t, 2)
	require.NoError(t, l.prepare(t.Context(), false))
	require.NoError(t, l.play(t.Context()))
	s := l.summary()
	assert.GreaterOrEqual(t, s.counted, 2)
	for _, r := range l.results {
		assert.Empty(t, r.Faults, "seed %d", r.Seed)
	}
	t.Log(s.text())
}

// What was played is not played again, unless it is of another binary.
func TestARunGoesOnWhereItWas(t *testing.T) {
	l := newLaboratory(t, 100)
	l.binary = filepath.Join(t.TempDir(), "binary")
	require.NoError(t, os.WriteFile(l.binary, []byte("one"), 0o600))
	require.NoError(t, l.prepare(t.Context(), false))
	for _, seed := range []uint64{1, 2, 4} {
		require.NoError(t, l.finish(&lane.Result{Seed: seed, Rows: int(seed)}))
	}
	require.NoError(t, l.file.Close())

	again := newLaboratory(t, 100)
	again.binary, again.directory = l.binary, l.directory
	require.NoError(t, again.prepare(t.Context(), false))
	assert.Equal(t, 3, again.counted)
	for _, want := range []uint64{3, 5, 6} {
		seed, more := again.take()
		assert.True(t, more)
		assert.Equal(t, want, seed)
	}

	require.NoError(t, os.WriteFile(l.binary, []byte("another"), 0o600))
	other := newLaboratory(t, 100)
	other.binary, other.directory = l.binary, l.directory
	require.ErrorContains(t, other.prepare(t.Context(), false), "another binary")
	require.NoError(t, other.prepare(t.Context(), true))
	assert.Zero(t, other.counted)
}

// The node of the leader is lost: what comes from it, and to it, vanishes. Under
// the settings of the pods in deploy/base the other pod takes the lead within the
// bound that make faults-recovery holds it to, and nobody is told twice.
func TestALostNodesLeadIsTaken(t *testing.T) {
	if fault := line.NamespaceFault(); fault != "" {
		t.Skip("SKIPPED: " + fault)
	}
	d, err := manifest.Read("../deploy/base")
	require.NoError(t, err)
	var settings []string
	for name, value := range d.ConfigMaps["tokenalert"] {
		settings = append(settings, name+"="+value)
	}
	directory := t.TempDir()
	binary, err := buildInto(t.Context(), directory)
	require.NoError(t, err)
	at, err := lane.New(t.Context(), lane.Options{Binary: binary, Directory: directory, BinDir: os.Getenv("PGTEST_BIN"), Settings: settings})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, at.Close()) })
	took, err := at.Recover(t.Context(), plan.Drop, lane.Awake, 1, func(d time.Duration) { t.Log("who crossed waited at most", d) })
	require.NoError(t, err)
	assert.Less(t, took[0], leaseRecovery)
}

// Each mutation still applies to the sources.
func TestMutationsApply(t *testing.T) {
	for _, m := range mutations {
		t.Run(m.name, func(t *testing.T) {
			root, err := module.Root(t.Context())
			require.NoError(t, err)
			_, err = m.overlay(root, t.TempDir())
			require.NoError(t, err)
		})
	}
}
