{{- /*
A Deployment with its ServiceAccount and disruption budget. It takes root,
component, args, ports, probe (the handler of both probes), and may take
env, lifecycle, volumes and mounts.
*/ -}}
{{- define "berth.deployment" -}}
{{- $values := index .root.Values .component -}}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: berth-{{ .component }}
  namespace: {{ .root.Release.Namespace }}
  labels: {{- include "berth.labels" . | nindent 4 }}
automountServiceAccountToken: false # the Deployment's own pods ask for it
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: berth-{{ .component }}
  namespace: {{ .root.Release.Namespace }}
  labels: {{- include "berth.labels" . | nindent 4 }}
spec:
  maxUnavailable: 1 # unlike minAvailable, it never holds up a drain when there is one replica
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels: {{- include "berth.selector" . | nindent 6 }}
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: berth-{{ .component }}
  namespace: {{ .root.Release.Namespace }}
  labels: {{- include "berth.labels" . | nindent 4 }}
spec:
  replicas: {{ $values.replicas }}
  strategy:
    type: RollingUpdate
    rollingUpdate: {maxSurge: 1, maxUnavailable: 0}
  selector:
    matchLabels: {{- include "berth.selector" . | nindent 6 }}
  template:
    metadata:
      labels: {{- include "berth.labels" . | nindent 8 }}
      annotations:
        kubectl.kubernetes.io/default-container: {{ .component }}
    spec:
      serviceAccountName: berth-{{ .component }}
      automountServiceAccountToken: true
      {{- with .root.Values.imagePullSecrets }}
      imagePullSecrets:
        {{- range . }}
        - name: {{ . }}
        {{- end }}
      {{- end }}
      {{- with $values.priorityClassName }}
      priorityClassName: {{ . }}
      {{- end }}
      {{- with $values.nodeSelector }}
      nodeSelector: {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $values.tolerations }}
      tolerations: {{- toYaml . | nindent 8 }}
      {{- end }}
      topologySpreadConstraints:
        - maxSkew: 1
          topologyKey: kubernetes.io/hostname
          whenUnsatisfiable: ScheduleAnyway
          labelSelector:
            matchLabels: {{- include "berth.selector" . | nindent 14 }}
      securityContext:
        runAsNonRoot: true
        runAsUser: 65532
        runAsGroup: 65532
        seccompProfile: {type: RuntimeDefault}
      containers:
        - name: {{ .component }}
          image: {{ include "berth.image" .root | quote }}
          imagePullPolicy: {{ .root.Values.image.pullPolicy }}
          command: [berth, {{ .component }}]
          args: {{- toYaml .args | nindent 12 }}
          {{- with .env }}
          env: {{- toYaml . | nindent 12 }}
          {{- end }}
          ports: {{- toYaml .ports | nindent 12 }}
          readinessProbe: {{- merge (dict "periodSeconds" 5 "timeoutSeconds" 3) .probe.ready | toYaml | nindent 12 }}
          livenessProbe: {{- merge (dict "periodSeconds" 20 "timeoutSeconds" 5 "failureThreshold" 6) .probe.live | toYaml | nindent 12 }}
          {{- with .lifecycle }}
          lifecycle: {{- toYaml . | nindent 12 }}
          {{- end }}
          {{- with .mounts }}
          volumeMounts: {{- toYaml . | nindent 12 }}
          {{- end }}
          resources: {{- toYaml $values.resources | nindent 12 }}
          securityContext:
            allowPrivilegeEscalation: false
            readOnlyRootFilesystem: true
            capabilities: {drop: [ALL]}
      {{- with .volumes }}
      volumes: {{- toYaml . | nindent 8 }}
      {{- end }}
{{- end }}
