{{- define "larder.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "larder.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains (include "larder.name" .) .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "larder.name" .) | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- /* The labels by which pods are found: these must not change from one version to the next. Takes (list $ "component"). */}}
{{- define "larder.selector" -}}
{{- $ := index . 0 -}}
app.kubernetes.io/name: {{ include "larder.name" $ }}
app.kubernetes.io/instance: {{ $.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{- /* All labels of an object. Takes (list $ "component"). */}}
{{- define "larder.labels" -}}
{{- $ := index . 0 -}}
{{ include "larder.selector" . }}
app.kubernetes.io/version: {{ $.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $.Release.Service }}
app.kubernetes.io/part-of: larder
helm.sh/chart: {{ printf "%s-%s" $.Chart.Name $.Chart.Version | replace "+" "_" | trunc 63 }}
{{- with $.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /* The metadata of an object. Takes (list $ "component" "name"), or a fourth for cluster-wide ones. */}}
{{- define "larder.metadata" -}}
{{- $ := index . 0 }}
metadata:
  name: {{ index . 2 }}
{{- if eq (len .) 3 }}
  namespace: {{ $.Release.Namespace }}
{{- end }}
  labels:
    {{- include "larder.labels" (list $ (index . 1)) | nindent 4 }}
{{- with $.Values.commonAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
{{- end }}
{{- end }}

{{- define "larder.image" -}}
{{- with .Values.image }}
{{- if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ default $.Chart.AppVersion .tag }}{{ end }}
{{- end }}
{{- end }}

{{- /* A table as TOML, without blanks at the ends of lines. */}}
{{- define "larder.toml" -}}
{{- include "larder.whole" . }}
{{- regexReplaceAll "(?m)^ +$" (toToml .) "" }}
{{- end }}

{{- /* Makes whole numbers of a table whole: to templates all numbers of values are fractions. */}}
{{- define "larder.whole" -}}
{{- $table := . }}
{{- range $key, $value := . }}
{{- if kindIs "float64" $value }}
{{- if eq $value (float64 (int64 $value)) }}
{{- $_ := set $table $key (int64 $value) }}
{{- end }}
{{- else if kindIs "map" $value }}
{{- include "larder.whole" $value }}
{{- else if kindIs "slice" $value }}
{{- range $value }}
{{- if kindIs "map" . }}
{{- include "larder.whole" . }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- define "larder.certificates.nodes" -}}
{{- default (printf "%s-nodes" (include "larder.fullname" .)) .Values.certificates.nodes }}
{{- end }}

{{- define "larder.certificates.registry" -}}
{{- default (printf "%s-registry" (include "larder.fullname" .)) .Values.certificates.registry }}
{{- end }}

{{- /* Of whoever tells the registry what is in use; a node's, which asks it what tags mean and no more, where others make certificates and none for it. */}}
{{- define "larder.certificates.controller" -}}
{{- if include "larder.certificates.made" . }}
{{- include "larder.fullname" . }}-controller
{{- else }}
{{- default (include "larder.certificates.nodes" .) .Values.certificates.controller }}
{{- end }}
{{- end }}

{{- define "larder.certificates.authority" -}}
{{- include "larder.fullname" . }}-authority
{{- end }}

{{- /* Whether the controller makes certificates. */}}
{{- define "larder.certificates.made" -}}
{{- if and .Values.controller.enabled (not .Values.certificates.nodes) (not .Values.certificates.registry) }}yes{{ end }}
{{- end }}

{{- /* The files of a certificate's Secret. Naming them makes kubelet wait until they are there. */}}
{{- define "larder.certificates.volume" -}}
- name: certificates
  secret:
    secretName: {{ . }}
    defaultMode: 0440
    items:
      - {key: tls.crt, path: tls.crt}
      - {key: tls.key, path: tls.key}
      - {key: ca.crt, path: ca.crt}
{{- end }}

{{- define "larder.trust.mount" -}}
{{- with .Values.trust }}
{{- if .configMap }}
- {name: trust, mountPath: /etc/ssl/certs/ca-certificates.crt, subPath: {{ .key }}, readOnly: true}
{{- end }}
{{- end }}
{{- end }}

{{- define "larder.trust.volume" -}}
{{- with .Values.trust }}
{{- if .configMap }}
- {name: trust, configMap: {name: {{ .configMap }}}}
{{- end }}
{{- end }}
{{- end }}

{{- /* The class of a component. Takes (list $ "component"). */}}
{{- define "larder.priority" -}}
{{- $ := index . 0 -}}
{{- $own := printf "%s-%s" (include "larder.fullname" $) (ternary "node" "system" (eq (index . 1) "node")) }}
{{- with default (ternary $own "" $.Values.priorityClasses.create) (get (get $.Values (index . 1)) "priorityClassName") }}
priorityClassName: {{ . }}
{{- end }}
{{- end }}

{{- define "larder.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- /* Where a pod may run. Takes its values. */}}
{{- define "larder.placement" -}}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- /* The metadata of a ServiceAccount. Takes (list $ "component" "name"). */}}
{{- define "larder.account" -}}
{{- $ := index . 0 }}
metadata:
  name: {{ index . 2 }}
  namespace: {{ $.Release.Namespace }}
  labels:
    {{- include "larder.labels" (list $ (index . 1)) | nindent 4 }}
{{- with merge (deepCopy $.Values.serviceAccounts.annotations) $.Values.commonAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
{{- end }}
{{- end }}
