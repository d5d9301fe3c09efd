package main

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// No t.Parallel here: the choice depends on the environment.
func TestGlobalsChooseTheCluster(t *testing.T) {
	dir := t.TempDir()
	kubeconfig := func(name string) string {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		text := fmt.Sprintf("apiVersion: v1\nkind: Config\ncurrent-context: it\n"+
			"contexts: [{name: it, context: {cluster: it, user: it, namespace: ns-of-%[1]s}}]\n"+
			"clusters: [{name: it, cluster: {server: 'https://%[1]s.test'}}]\nusers: [{name: it, user: {}}]\n", filepath.Base(filepath.Dir(file)))
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	flag, env, data := kubeconfig("flag/kubeconfig"), kubeconfig("env/kubeconfig"), filepath.Dir(kubeconfig("data/kubeconfig"))
	for name, tc := range map[string]struct {
		globals   Globals
		env       string
		host      string
		namespace string
	}{
		"the flag wins over all":                       {Globals{Kubeconfig: flag, Data: data}, env, "https://flag.test", "ns-of-flag"},
		"the environment wins over berth dev":          {Globals{Data: data}, env, "https://env.test", "ns-of-env"},
		"berth dev's is found without a word":          {Globals{Data: data}, "", "https://data.test", "ns-of-data"},
		"without berth dev the usual rules hold":       {Globals{Data: dir}, env, "https://env.test", "ns-of-env"},
		"the environment may list files":               {Globals{Data: dir}, flag + ":" + env, "https://flag.test", "ns-of-flag"},
		"a given namespace wins over the kubeconfig's": {Globals{Data: data, Namespace: "apps"}, "", "https://data.test", "apps"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("KUBECONFIG", tc.env)
			config, err := tc.globals.Config()
			if err != nil {
				t.Fatal(err)
			}
			_, namespace, err := tc.globals.Client()
			if err != nil {
				t.Fatal(err)
			}
			if config.Host != tc.host || namespace != tc.namespace {
				t.Fatalf("chose %s and namespace %s, want %s and %s", config.Host, namespace, tc.host, tc.namespace)
			}
		})
	}
}

func TestGlobalsWithoutAnyClusterSayWhatToDo(t *testing.T) {
	t.Setenv("KUBECONFIG", filepath.Join(t.TempDir(), "absent"))
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	_, err := (&Globals{}).Config()
	want := "no cluster is configured; start one with berth dev, or name a kubeconfig with --kubeconfig"
	if err == nil || err.Error() != want {
		t.Fatalf("error is %v, want %s", err, want)
	}
}
