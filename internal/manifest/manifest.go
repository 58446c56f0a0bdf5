package manifest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// A Deployment is what a folder of manifests says of its only one (apps/v1).
type Deployment struct {
	Replicas int      `yaml:"replicas"`
	Strategy Strategy `yaml:"strategy"`
	Template struct {
		Spec PodSpec `yaml:"spec"`
	} `yaml:"template"`

	// ConfigMaps are those that the folder's kustomization generates from files of
	// variables, by their names.
	ConfigMaps map[string]map[string]string `yaml:"-"`
}

// Strategy says how pods replace others.
type Strategy struct {
	RollingUpdate struct {
		MaxSurge       string `yaml:"maxSurge"`
		MaxUnavailable string `yaml:"maxUnavailable"`
	} `yaml:"rollingUpdate"`
}

// PodSpec is a pod's.
type PodSpec struct {
	SecurityContext struct {
		RunAsUser  int `yaml:"runAsUser"`
		RunAsGroup int `yaml:"runAsGroup"`
	} `yaml:"securityContext"`
	InitContainers                []Container `yaml:"initContainers"`
	Containers                    []Container `yaml:"containers"`
	TerminationGracePeriodSeconds int         `yaml:"terminationGracePeriodSeconds"`
	Volumes                       []Volume    `yaml:"volumes"`
}

// A Container is a process of a pod.
type Container struct {
	Name    string     `yaml:"name"`
	Command []string   `yaml:"command"` // in place of the image's
	Args    []string   `yaml:"args"`
	EnvFrom []Source   `yaml:"envFrom"`
	Env     []Variable `yaml:"env"`
	Mounts  []Mount    `yaml:"volumeMounts"`
	Ports   []struct {
		ContainerPort int `yaml:"containerPort"`
	} `yaml:"ports"`

	Resources struct {
		Limits map[string]string `yaml:"limits"`
	} `yaml:"resources"`

	Startup   Probe `yaml:"startupProbe"`
	Liveness  Probe `yaml:"livenessProbe"`
	Readiness Probe `yaml:"readinessProbe"`
}

// A Source of variables.
type Source struct {
	ConfigMap *Reference `yaml:"configMapRef"`
}

// A Reference names a ConfigMap or a Secret, and a key of it where one is meant.
type Reference struct {
	Name     string `yaml:"name"`
	Key      string `yaml:"key"`
	Optional bool   `yaml:"optional"`
}

// A Variable has a value, or says where it comes from.
type Variable struct {
	Name  string `yaml:"name"`
	Value string `yaml:"value"`
	From  struct {
		Secret    *Reference `yaml:"secretKeyRef"`
		ConfigMap *Reference `yaml:"configMapKeyRef"`
		Field     *struct {
			Path string `yaml:"fieldPath"`
		} `yaml:"fieldRef"`
		Resource *struct {
			Resource string `yaml:"resource"`
			Divisor  string `yaml:"divisor"`
		} `yaml:"resourceFieldRef"`
	} `yaml:"valueFrom"`
}

// A Mount is where a container finds a volume.
type Mount struct {
	Name string `yaml:"name"`
	Path string `yaml:"mountPath"`
}

// A Volume holds the keys of a Secret, or nothing that concerns us.
type Volume struct {
	Name   string `yaml:"name"`
	Secret *struct {
		Name     string `yaml:"secretName"`
		Optional bool   `yaml:"optional"`
		Items    []struct {
			Key  string `yaml:"key"`
			Path string `yaml:"path"`
		} `yaml:"items"`
	} `yaml:"secret"`
}

// A Probe asks over HTTP. What is not given is 0.
type Probe struct {
	HTTPGet struct {
		Path string `yaml:"path"`
	} `yaml:"httpGet"`
	PeriodSeconds    int `yaml:"periodSeconds"`
	FailureThreshold int `yaml:"failureThreshold"`
	TimeoutSeconds   int `yaml:"timeoutSeconds"`
}

// Timeout is how long an answer may take: a second by default.
func (p Probe) Timeout() time.Duration { return time.Duration(max(p.TimeoutSeconds, 1)) * time.Second }

// Forgives is how long answers may fail, one after the other, before a kubelet
// can have taken notice: the first to fail and the one that is too many lie so
// far apart. By default it asks every ten seconds, and the third is too many.
func (p Probe) Forgives() time.Duration {
	period, threshold := p.PeriodSeconds, p.FailureThreshold
	if period == 0 {
		period = 10
	}
	if threshold == 0 {
		threshold = 3
	}
	return time.Duration((threshold-1)*period) * time.Second
}

// kustomization is a folder's list of what belongs to it.
type kustomization struct {
	Resources  []string `yaml:"resources"`
	ConfigMaps []struct {
		Name string   `yaml:"name"`
		Envs []string `yaml:"envs"`
	} `yaml:"configMapGenerator"`
}

// Read reads a folder that has a kustomization and, in a file of its own, a
// Deployment.
func Read(folder string) (*Deployment, error) {
	var k kustomization
	if err := decode(filepath.Join(folder, "kustomization.yaml"), &k); err != nil {
		return nil, err
	}
	d := &Deployment{ConfigMaps: map[string]map[string]string{}}
	found := false
	for _, name := range k.Resources {
		var object struct {
			Kind string    `yaml:"kind"`
			Spec yaml.Node `yaml:"spec"`
		}
		if err := decode(filepath.Join(folder, name), &object); err != nil {
			return nil, err
		}
		if object.Kind == "Deployment" {
			found = true
			if err := object.Spec.Decode(d); err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	if !found {
		return nil, fmt.Errorf("no Deployment in %s", folder)
	}
	for _, c := range k.ConfigMaps {
		d.ConfigMaps[c.Name] = map[string]string{}
		for _, name := range c.Envs {
			text, err := os.ReadFile(filepath.Join(folder, name))
			if err != nil {
				return nil, err
			}
			for line := range strings.Lines(string(text)) {
				if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && !strings.HasPrefix(key, "#") {
					d.ConfigMaps[c.Name][key] = value
				}
			}
		}
	}
	return d, nil
}

func decode(file string, into any) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if err := yaml.Unmarshal(text, into); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return nil
}
