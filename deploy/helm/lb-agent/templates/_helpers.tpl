{{- define "lb-agent.labels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "lb-agent.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "lb-agent.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "lb-agent.healthzPort" -}}
{{ .Values.healthzPort | default (ternary 10356 10256 .Values.besideKubeProxy) }}
{{- end }}

{{- define "lb-agent.metricsPort" -}}
{{ .Values.metricsPort | default (ternary 10349 10249 .Values.besideKubeProxy) }}
{{- end }}

{{/* The cluster-wide objects carry the release's name: two releases must not share them. */}}
{{- define "lb-agent.role" -}}
{{ .Release.Name | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* config.conf: what the chart knows, with `config` over it. */}}
{{- define "lb-agent.config" -}}
{{- $own := dict
  "apiVersion" "kubeproxy.config.k8s.io/v1alpha1"
  "kind" "KubeProxyConfiguration"
  "healthzBindAddress" (printf "0.0.0.0:%s" (include "lb-agent.healthzPort" .))
  "metricsBindAddress" (printf "%s:%s" .Values.metricsAddress (include "lb-agent.metricsPort" .))
  "oomScoreAdj" -997 }}
{{- if .Values.apiServer }}
{{- $_ := set $own "clientConnection" (dict "kubeconfig" "/var/lib/kube-proxy/kubeconfig.conf") }}
{{- end }}
{{- mergeOverwrite $own (deepCopy .Values.config) | toYaml }}
{{- end }}

{{- define "lb-agent.env" -}}
- name: NODE_NAME
  valueFrom:
    fieldRef:
      fieldPath: spec.nodeName
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}
