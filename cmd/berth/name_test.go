package main

import "testing"

func TestProgramName(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ argv0, want string }{
		"is the program's own":                {"/usr/local/bin/berth", "berth"},
		"is kubectl's as its plugin":          {"/home/me/bin/kubectl-berth", "kubectl berth"},
		"turns an underscore as kubectl does": {"kubectl-my_berth", "kubectl my-berth"},
		"follows a renamed program":           {"./berth-1.2", "berth-1.2"},
		"leaves .exe out":                     {"kubectl-berth.exe", "kubectl berth"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := programName(tc.argv0); got != tc.want {
				t.Fatalf("programName(%q) = %q, want %q", tc.argv0, got, tc.want)
			}
		})
	}
}
